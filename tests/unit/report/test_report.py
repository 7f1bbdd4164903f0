"""The run folder and the page hold every number, and never claim more than is proved."""

import base64
import csv
import hashlib
import io
import json
import math
import re
import time
from dataclasses import dataclass, replace
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.plots import synthetic

from curvescope.report import (
    collect_environment,
    formatting,
    load_results,
    page,
    report,
    report_from_folder,
    summary,
    to_csv,
    write_report,
)
from curvescope.report import environment as environment_module
from curvescope.results import Provenance, Result, VectorEstimate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    report(
        list(synthetic.all_results().values()),
        path=folder,
        title="MLP on digits",
        command="curvescope analyze mlp --seed 7",
        config={"model": "mlp", "data": {"name": "digits"}},
        checks={"loss": 0.3125, "accuracy": 0.9123},
    )
    return folder


class Text(HTMLParser):
    """The words of a page, without styles and scripts, and its outside references."""

    def __init__(self, html):
        super().__init__()
        self.words, self.references, self._skip = [], [], False
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self._skip = tag in ("style", "script", "textarea")
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                self.references.append(value)

    def handle_endtag(self, tag):
        self._skip = False

    def handle_data(self, data):
        if not self._skip:
            self.words.append(data)


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_a_run_folder_holds_results_figures_tables_and_the_page(run):
    files = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}

    names = ["eigenpairs", "spectral_density", "effective_dimension", "layers"]
    assert {f"figures/{n}.{k}" for n in names for k in ("png", "pdf")} <= files
    assert {f"results/{n}.json" for n in [*names, "trace", "frobenius_norm"]} <= files
    tables = {f for f in files if f.endswith(".csv")}
    others = [*names[1:], "trace", "frobenius_norm"]
    assert tables == {"table.csv", *(f"{n}.csv" for n in others)}
    assert {"report.html", "config.json", "environment.json"} <= files
    assert not any(f.rpartition("/")[2].startswith(".") for f in files)


def test_the_table_holds_the_eigenpairs_to_the_last_bit(run):
    rows = read_csv(run / "table.csv")

    pairs = synthetic.eigenpairs()
    assert list(rows[0]) == ["eigenvalue", "relative_residual", "converged"]
    assert [float(r["eigenvalue"]) for r in rows] == pairs.eigenvalues.tolist()
    residuals = (pairs.residual_norms / pairs.eigenvalues.abs()).tolist()
    assert [float(r["relative_residual"]) for r in rows] == residuals
    assert [r["converged"] for r in rows] == ["True"] * 9 + ["False"]


def test_rendering_again_from_the_folder_gives_the_same_page(run):
    before = (run / "report.html").read_bytes()
    (run / "report.html").unlink()
    for figure in (run / "figures").iterdir():
        figure.unlink()

    path = report_from_folder(run)

    assert path.read_bytes() == before
    assert len(list((run / "figures").iterdir())) == 8


def test_a_folder_without_a_manifest_is_rendered_all_the_same(tmp_path):
    synthetic.trace_estimate().save(tmp_path / "results", "trace")

    path = report_from_folder(tmp_path)

    assert "MLP 64-32-10, cross entropy on digits" in path.read_text(encoding="utf-8")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be a run folder with"):
        report_from_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_says_what_on_what_how_sure_and_at_what_cost(run):
    text = Text((run / "report.html").read_text(encoding="utf-8")).text

    for words in (
        "MLP on digits",
        "MLP 64-32-10, cross entropy on digits (train)",
        "Samples 1 437",
        "mean loss per sample per squared parameter",
        "3f9a1c04be27d815",
        "Seed 7",
        "tol = 0.001",
        "9 of 10 pairs are converged",
        "1 of 10 pairs did not converge",
        "pointwise 95 % interval over 8 probes",
        "quadrature's 40 steps",
        "120 matrix products in 30 passes",
        "412.0 MiB",
        "curvescope analyze mlp --seed 7",
        "accuracy 0.9123",
        "data.name digits",
    ):
        assert words in text, words


def test_the_page_refers_to_nothing_outside_itself(run):
    html = (run / "report.html").read_text(encoding="utf-8")

    references = Text(html).references

    assert len(references) > 20
    assert all(r.startswith(("#", "data:")) for r in references)
    assert not re.search(r"@import|url\((?!#)", html)


def test_the_policy_names_the_hash_of_the_only_script(run):
    html = (run / "report.html").read_text(encoding="utf-8")

    scripts = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)

    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}'" in html


def test_a_downloaded_table_is_the_file_of_the_folder(run):
    html = (run / "report.html").read_text(encoding="utf-8")

    links = re.findall(r'download="([^"]+)" href="data:[^,]+,([^"]*)"', html)
    contents = {name: base64.b64decode(data).decode() for name, data in links}

    for name in ("spectral_density.csv", "effective_dimension.csv", "layers.csv"):
        assert contents[name] == (run / name).read_text(encoding="utf-8")
    assert contents["eigenpairs.csv"] == (run / "table.csv").read_text("utf-8")


def test_a_page_takes_under_three_seconds(tmp_path):
    results = synthetic.all_results()
    write_report(results, tmp_path / "warm.html", title="x")

    start = time.process_time()
    write_report(results, tmp_path / "page.html", title="x")

    assert time.process_time() - start < 3.0


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "a/b", "table", "<b>"])
def test_a_name_unfit_for_a_file_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="`results` must be named by letters, digits"):
        report({name: synthetic.trace_estimate()}, path=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_no_results_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`results` must hold at least one result"):
        report([], path=tmp_path / "run")
    with pytest.raises(TypeError, match="`results` must hold results only; got float"):
        report([1.0], path=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_results_of_one_kind_get_numbers(tmp_path):
    pairs = synthetic.eigenpairs()

    path = report([pairs, pairs], path=tmp_path)

    assert list(load_results(tmp_path)) == ["eigenpairs", "eigenpairs_2"]
    assert (tmp_path / "eigenpairs_2.csv").exists()
    assert path == tmp_path / "report.html"


def test_a_result_of_any_other_kind_has_its_line_its_notes_and_its_cost(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Other(Result):
        def headline(self):
            return "something else"

        def rows(self):
            return [{"quantity": "<i>", "value": 1.5}]

    vector = VectorEstimate(
        quantity="diagonal",
        values=torch.ones(3),
        standard_errors=torch.zeros(3),
        notes=("rough",),
        cost=synthetic.cost(),
    )

    path = write_report({"other": Other(), "diagonal": vector}, tmp_path, title="x")
    html = path.read_text(encoding="utf-8")
    text = Text(html).text

    assert "something else" in text
    assert "<i>" not in html
    assert "Diagonal of the matrix" in text
    assert "rough" in text


def test_two_matrices_are_both_described(tmp_path):
    results = {
        "h": synthetic.eigenpairs(),
        "g": synthetic.eigenpairs(matrix="GGN"),
    }

    labels = [card.label for card in summary.cards(results)]

    assert "Top eigenvalue of the Hessian" in labels
    assert "Top eigenvalue of the GGN" in labels


def labels_of(pairs):
    return [card.label for card in summary.cards({"p": pairs})]


@pytest.mark.parametrize(
    ("which", "labels"),
    [
        ("LA", ["Top eigenvalue"]),
        ("SA", ["Lowest eigenvalue"]),
        ("BE", ["Top eigenvalue", "Lowest eigenvalue"]),
    ],
)
def test_a_card_names_only_the_end_that_was_computed(which, labels):
    assert labels_of(synthetic.eigenpairs(which=which, unconverged=0)) == labels


def test_the_largest_in_magnitude_only_bound_an_end_that_they_do_not_reach():
    pairs = synthetic.eigenpairs(which="LM", k=10, unconverged=0)
    assert float(pairs.eigenvalues.min()) > 0

    cards = summary.cards({"p": pairs})

    assert cards[1].label == "Lowest eigenvalue"
    bound = float(cards[1].value.removeprefix("\u2265 \u2212"))
    assert math.isclose(bound, float(pairs.eigenvalues.min()), rel_tol=1e-4)
    lowest = float(synthetic.spectrum().min())
    assert lowest >= -bound


def test_without_convergence_nothing_is_bounded():
    pairs = synthetic.eigenpairs(which="LM", k=10, unconverged=1)

    assert labels_of(pairs) == ["Top eigenvalue"]


def test_a_negative_pair_of_largest_magnitude_is_the_lowest():
    pairs = synthetic.eigenpairs(which="LM", k=10, unconverged=0)
    values = pairs.eigenvalues.clone()
    values[-1] = -values[-1]
    pairs = replace(pairs, eigenvalues=values)

    assert labels_of(pairs) == ["Top eigenvalue", "Lowest eigenvalue"]


def test_all_eigenvalues_certify_both_ends_whatever_was_asked():
    pairs = synthetic.eigenpairs(which="LA", k=synthetic.NUM_PARAMS, unconverged=0)

    assert labels_of(pairs) == ["Top eigenvalue", "Lowest eigenvalue"]


def test_a_card_warns_where_its_pair_did_not_converge():
    cards = summary.cards({"p": synthetic.eigenpairs(unconverged=1)})

    assert [card.warn for card in cards] == [False, True]
    assert "not converged" in cards[1].detail


def test_the_effective_dimension_is_shown_where_it_was_asked():
    result = synthetic.effective_dimension()
    asked = [float(result.z[3]), float(result.z[40])]
    result = replace(result, settings={"z": asked})

    cards = summary.cards({"n": result})

    assert [c.label for c in cards] == [
        f"Effective dimension at z = {formatting.number(z, digits=3)}" for z in asked
    ]
    assert cards[0].value == formatting.with_error(
        float(result.values[3]), float(result.standard_errors[3])
    )


def test_a_lower_bound_is_shown_as_one():
    cards = summary.cards({"n": synthetic.effective_dimension(method="lower_bound")})

    assert all(card.value.startswith("\u2265 ") for card in cards)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, finite, st.booleans()), min_size=1, max_size=20))
def test_every_number_of_a_table_reads_back_bit_for_bit(values):
    rows = [{"a": a, "b": b, "converged": c} for a, b, c in values]

    for delimiter in (",", "\t"):
        text = to_csv(rows, delimiter=delimiter)
        back = list(csv.DictReader(io.StringIO(text), delimiter=delimiter))
        assert [float(r["a"]).hex() for r in back] == [a.hex() for a, *_ in values]
        assert [float(r["b"]).hex() for r in back] == [b.hex() for _, b, _ in values]
        assert [r["converged"] == "True" for r in back] == [c for *_, c in values]


@given(
    st.floats(min_value=-1e15, max_value=1e15).filter(lambda v: abs(v) > 1e-15),
    st.floats(min_value=1e-12, max_value=2.0),
)
def test_a_value_is_rounded_by_no_more_than_a_tenth_of_its_error(value, relative):
    error = abs(value) * relative

    text = formatting.with_error(value, error).replace("\u2212", "-")

    match = re.fullmatch(r"\(?(\S+) \u00b1 ([^\s)]+)\)?(e\S+)?", text)
    assert match is not None, text
    power = match[3] or ""
    shown, shown_error = float(match[1] + power), float(match[2] + power)
    assert math.isclose(shown_error, error, rel_tol=0.06)
    assert abs(shown - value) <= max(0.06 * error, 1e-4 * abs(value))


def test_notes_stand_before_every_number(run):
    text = Text((run / "report.html").read_text(encoding="utf-8")).text

    assert text.index("Read this first") < text.index("Top eigenvalue")


def test_a_parameter_table_lists_the_flat_vector(run):
    text = Text((run / "report.html").read_text(encoding="utf-8")).text

    assert "0.weight 16 \u00d7 10 160" in text


def test_the_environment_is_plain_json_and_knows_this_machine(monkeypatch):
    content = collect_environment(seed=3)

    assert json.loads(json.dumps(content)) == content
    assert content["packages"]["torch"] == torch.__version__.partition("+")[0] or (
        content["packages"]["torch"] == torch.__version__
    )
    assert content["seed"] == 3
    assert content["threads"] == torch.get_num_threads()


def test_an_environment_without_git_has_no_revision(monkeypatch):
    monkeypatch.setattr(environment_module, "_git", lambda *_: "")

    assert "git" not in collect_environment()


def test_a_plain_matrix_has_no_empty_facts(tmp_path):
    result = replace(synthetic.trace_estimate(), of=Provenance(num_params=5))

    subject = page.render(
        {"t": result},
        title="x",
        command=None,
        environment=None,
        config=None,
        checks=None,
    )

    assert "Reduction" not in subject
    assert "Samples" not in subject
    assert "None" not in Text(subject).text
