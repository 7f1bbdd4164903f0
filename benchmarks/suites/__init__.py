"""What can be measured: one module a suite, in the order of the documentation."""

from benchmarks.suites import density, exact, layers, many, products, top

SUITES = {
    module.SUITE.name: module.SUITE
    for module in (products, top, density, many, layers, exact)
}
