"""The page says of ranks what was measured, predicted, equal and proved, in words."""

import csv
import io
import re
from dataclasses import replace

import pytest
from tests.unit.plots import synthetic, synthetic_ranks
from tests.unit.plots.synthetic_ranks import prediction

from curvescope.report import ranks, report, summary, to_csv
from curvescope.report.kinds import kind_of
from curvescope.report.tables import make_table

RESULTS = {
    "rank_report": synthetic_ranks.report,
    "rank_sweep": synthetic_ranks.sweep,
    "spectrum_comparison": synthetic_ranks.comparison,
    "block_picture": synthetic_ranks.picture,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "ranks"
    report(
        [synthetic.trace_estimate(), *(make() for make in RESULTS.values())], path=path
    )
    return path


def read(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def words(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def undetermined():
    result = synthetic_ranks.report()
    wrong = replace(result.hessian, rank=100, certain=False)
    return replace(result, hessian=wrong)


def test_the_table_of_a_rank_report_is_its_rows(folder):
    rows = read(folder / "table.csv")

    assert [r["matrix"] for r in rows] == ["hessian", "ggn", "functional"]
    assert [int(r["rank"]) for r in rows] == [104, 48, 72]
    assert [int(r["certified_rank"]) for r in rows] == [104, 48, 72]
    assert [int(r["predicted_rank"]) for r in rows] == [104, 48, 72]
    assert [r["agrees"] for r in rows] == ["True"] * 3


def test_a_sweep_has_a_row_a_point_in_the_only_table(tmp_path):
    sweep = synthetic_ranks.sweep(seeds=2)

    report([sweep], path=tmp_path)

    rows = read(tmp_path / "table.csv")
    assert len(rows) == 18
    assert [int(r["width"]) for r in rows] == [r["width"] for r in sweep.records]
    for column in (
        "hessian_rank",
        "ggn_predicted",
        "functional_certified",
        "num_params",
    ):
        assert [int(r[column]) for r in rows] == [r[column] for r in sweep.records]


def test_other_results_beside_a_report_have_files_of_their_own(folder):
    spectra = read(folder / "spectrum_comparison.csv")
    blocks = read(folder / "block_picture.csv")

    comparison = synthetic_ranks.comparison()
    assert [float(r["tanh"]) for r in spectra] == comparison.eigenvalues[
        "tanh"
    ].tolist()
    assert [int(r["index"]) for r in spectra] == list(range(1, 123))
    assert len(blocks) == 3 * 6
    assert len(read(folder / "rank_sweep.csv")) == 9
    names = {path.name for path in (folder / "figures").iterdir()}
    assert names == {f"{name}.{kind}" for name in RESULTS for kind in ("png", "pdf")}


def test_the_page_holds_every_kind_and_its_figures(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")

    text = words(html)

    assert html.count("<svg") == 2 * len(RESULTS)
    for name in RESULTS:
        assert f'id="result-{name}"' in html
    for sentence in (
        "Measured ranks among 122 parameters: Hessian 104, GGN 48, functional Hessian 72.",
        (
            "Theory predicts Hessian 104, GGN 48, functional Hessian 72, and that is what "
            "was measured."
        ),
        "Exact arithmetic confirms all of them.",
        "stated in the published work, given no bias; generic weights",
        "27 of 27 measured ranks are what theory claims.",
        "27 of 27 certificates confirm the measured rank.",
        "hatched paper is exactly zero",
    ):
        assert sentence in text, sentence
    assert "None" not in text
    assert "Read this first" not in text


def test_a_table_of_later_columns_and_missing_values_is_whole():
    rows = [
        {"width": 4, "ggn_predicted": None},
        {"width": 8, "ggn_predicted": 3, "new": 1},
    ]

    table = make_table("a", "", rows)

    assert table.heads == ("width", "ggn predicted", "new")
    assert table.cells == (("4", "\u2013", "\u2013"), ("8", "3", "1"))
    assert table.numeric == (True, True, True)
    assert to_csv(rows) == "width,ggn_predicted,new\n4,,\n8,3,1\n"


def test_what_differs_from_theory_or_is_undetermined_comes_first(tmp_path):
    result = undetermined()

    report([result], path=tmp_path)

    text = words((tmp_path / "report.html").read_text(encoding="utf-8"))
    first = text.index("Read this first")
    warned = "the rank of the Hessian is undetermined; the exact rank is 104"
    claimed = "the rank of the Hessian is 100, where theory claims 104"
    assert first < text.index(warned) < text.index("Rank of the Hessian 100")
    assert first < text.index(claimed)
    assert "but the measured rank of the Hessian differs" in text
    assert "Exact arithmetic gives Hessian 104, GGN 48, functional Hessian 72" in text
    assert "The rank of the Hessian is undetermined" in text


def test_a_rank_that_is_certain_and_yet_not_the_exact_one_is_told():
    result = synthetic_ranks.report()
    result = replace(result, ggn=replace(result.ggn, certified=60), predictions=())

    found = list(ranks.report_warnings(result))

    assert found == ["the rank of the GGN is 48 numerically and 60 exactly"]
    assert "No theory gives a number" in ranks.report_headline(result)


@pytest.mark.parametrize(
    ("claim", "value", "sentence"),
    [
        ("at_most", 110, "at most 110, and no measured rank exceeds it"),
        ("at_most", 100, "at most 100, but the measured rank of the Hessian differs"),
        ("equal", 104, "Hessian 104, and that is what was measured"),
    ],
)
def test_a_bound_is_never_called_an_equality(claim, value, sentence):
    result = replace(
        synthetic_ranks.report(), predictions=(prediction("hessian", value, claim),)
    )

    assert sentence in ranks.report_headline(result)


def test_without_a_certificate_none_is_claimed():
    result = synthetic_ranks.report()
    bare = {
        name: replace(rank, certified=None) for name, rank in result.measured.items()
    }
    result = replace(result, **bare)

    text = ranks.report_headline(result) + ranks.report_sureness(result)

    assert "There is no certificate" in text
    assert "certified" not in text


def test_cards_of_a_report_warn_where_it_is_not_as_predicted():
    cards = summary.cards({"r": undetermined()})

    assert [card.value for card in cards] == ["100", "48", "72"]
    assert [card.warn for card in cards] == [True, False, False]
    assert "exact rank 104; predicted 104 (differs)" in cards[0].detail
    assert cards[1].detail == "certified; predicted 48"


def test_cards_of_a_sweep_count_what_is_as_predicted():
    cards = summary.cards({"s": synthetic_ranks.training()})

    assert [card.value for card in cards] == ["18 of 30", "18 of 30"]
    assert cards[0].detail == "12 undetermined"
    assert all(card.warn for card in cards)


def test_one_rank_says_how_it_was_decided():
    rank = synthetic_ranks.report().ggn

    sure = kind_of(rank).sureness

    assert "confirms it" in sure(rank)
    assert "a factor of the matrix" in sure(rank)
    assert "The exact rank is 50" in sure(replace(rank, certified=50))
    assert "is not certain" in sure(replace(rank, certain=False))
    assert "nothing but exact zeros was dropped" in sure(
        replace(rank, gap=float("inf"))
    )
    estimate = sure(replace(rank, standard_error=3.25, method="quadrature"))
    assert "standard error of 3.2" in estimate
    assert "nothing is proved" in estimate
