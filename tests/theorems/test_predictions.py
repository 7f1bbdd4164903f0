"""The one call: what it claims, what it says, what it refuses, what it imports."""

import ast
from pathlib import Path

import pytest

from curvescope import theory

FACTS = {
    "widths": [25, 5, 10, 10],
    "activation": "linear",
    "bias": False,
    "num_samples": 50,
    "input_rank": 25,
    "output_rank": 10,
    "residual_rank": 10,
}


def predict(**changed):
    return theory.predicted_ranks(**{**FACTS, **changed})


def test_every_prediction_tells_its_formula_and_where_it_is_from():
    predicted = predict()

    assert list(predicted) == ["hessian", "ggn", "functional"]
    assert predicted["hessian"].formula == (
        "q(r+k-q)+t(2M-(L-1)t) with q=5, t=min(q,s)=5, r=25, k=10, M=15, L=3"
    )
    assert predicted["functional"].formula == (
        "2qM+2qs-Lq^2 with q=min(s,m)=5, M=15, s=10, L=3"
    )
    for name, prediction in predicted.items():
        assert prediction.matrix == name
        assert (prediction.claim, prediction.status) == ("equal", "published")
        assert "2106.16225" in prediction.source
        assert prediction.assumptions


def test_only_what_is_published_is_said_to_be():
    few_classes = predict(residual_rank=4)
    biased = predict(bias=True, centred_input_rank=25)
    relu = predict(activation="homogeneous")

    assert few_classes["ggn"].status == "published"
    assert few_classes["functional"].status == few_classes["hessian"].status == "fitted"
    assert [p.status for p in biased.values()] == ["fitted", "derived", "fitted"]
    assert {p.status for p in relu.values()} == {"derived"}
    for prediction in (few_classes["hessian"], *biased.values(), *relu.values()):
        assert "2106.16225" not in prediction.source


def test_an_unmeasured_residual_is_an_assumption():
    predicted = predict(residual_rank=None)

    assert predicted["hessian"].value == 250
    assert any("not measured" in text for text in predicted["hessian"].assumptions)
    assert not any("not measured" in text for text in predict()["hessian"].assumptions)


def test_weights_that_are_not_generic_have_ceilings():
    known = {"left_ranks": [2, 10, 10], "right_ranks": [25, 5, 2]}

    predicted = predict(**known)
    blind = predict(full_rank_weights=False)

    assert str(predicted["ggn"]) == "rank = 90 (derived)"
    assert {blind[name].claim for name in blind} == {"at_most"}
    assert [p.value for p in blind.values()] == [250, 150, 175]


def test_generic_factors_change_nothing():
    same = predict(left_ranks=[5, 10, 10], right_ranks=[25, 5, 5])

    assert same == predict()


def test_a_loss_that_is_flat_somewhere_has_no_equality_for_h():
    predicted = predict(output_rank=4, residual_rank=6)

    assert predicted["hessian"].claim == "at_most"
    assert predicted["functional"].claim == predicted["ggn"].claim == "equal"


def test_a_loss_linear_in_the_outputs_has_only_the_functional_part():
    predicted = predict(output_rank=0)

    assert predicted["ggn"].value == 0
    assert predicted["hessian"].value == predicted["functional"].value == 175
    assert predicted["hessian"].claim == "equal"


def test_activations_mean_nothing_without_hidden_layers():
    for activation in ("linear", "homogeneous", "smooth"):
        predicted = predict(widths=[25, 10], activation=activation)

        assert [p.value for p in predicted.values()] == [250, 250, 0]
        assert {p.claim for p in predicted.values()} == {"equal"}


def test_a_one_hidden_relu_layer_is_exact_in_its_functional_part():
    predicted = predict(
        widths=[25, 3, 10],
        activation="homogeneous",
        unit_input_ranks=[20, 0, 25],
        unit_residual_ranks=[10, 0, 9],
    )

    assert str(predicted["functional"]) == "rank = 38 (derived)"
    assert str(predicted["ggn"]) == "rank <= 63 (derived)"
    assert predicted["ggn"].formula == "sum_j (r_j+k-1) with k=10, r_j=[20, 0, 25]"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"widths": [3]}, "`widths` must have at least two entries"),
        ({"widths": [25, 0, 10]}, "`widths` must be at least 1"),
        ({"activation": "relu"}, "`activation` must be one of"),
        ({"bias": [True]}, "`bias` must be one flag or one a layer; got 1 for 3"),
        ({"bias": True}, "`centred_input_rank` must be given for biases"),
        ({"bias": True, "centred_input_rank": 20}, "must be 25 or one less"),
        ({"input_rank": 26}, "`input_rank` must be at most 25"),
        ({"num_samples": 20}, "`input_rank` must be at most 20"),
        ({"shift_invariant": True}, "`output_rank` must be at most 9"),
        ({"residual_rank": 11}, "`residual_rank` must be at most 10"),
        ({"left_ranks": [5, 10, 10]}, "`left_ranks` must come with `right_ranks`"),
        ({"left_ranks": [1], "right_ranks": [1]}, "`left_ranks` must have one entry"),
        ({"unit_input_ranks": [1]}, "`unit_input_ranks` must be None but for one"),
    ],
)
def test_contradictions_are_refused(changed, text):
    with pytest.raises(ValueError, match=text):
        predict(**changed)


def test_units_are_counted():
    with pytest.raises(ValueError, match="`unit_residual_ranks` must have one entry"):
        predict(
            widths=[25, 3, 10], activation="homogeneous", unit_residual_ranks=[1, 2]
        )


def test_theory_imports_no_array_library():
    for path in Path(theory.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module)

        assert not {m.split(".")[0] for m in modules} & {"torch", "numpy", "scipy"}


def test_a_loss_that_is_flat_for_too_many_samples_has_ceilings():
    predicted, whole = predict(definite_curvature=False), predict()

    assert [predicted[name].claim for name in ("hessian", "ggn")] == ["at_most"] * 2
    assert {n: p.value for n, p in predicted.items()} == {
        n: p.value for n, p in whole.items()
    }
    assert predicted["functional"] == whole["functional"]
    assert "a ceiling only" in predicted["ggn"].assumptions[0]


def test_a_ceiling_from_a_fitted_formula_is_not_said_to_be_derived():
    biased = predict(bias=[True, True, False], centred_input_rank=25)
    deficient = predict(residual_rank=4, full_rank_weights=False)

    assert biased["functional"].status == "fitted"
    assert deficient["functional"].status == "fitted"
    assert deficient["ggn"].status == "published"


def test_without_hidden_layers_a_residual_outside_the_curvature_does_not_matter():
    predicted = predict(widths=[25, 10], output_rank=4, residual_rank=9)

    assert [p.value for p in predicted.values()] == [100, 100, 0]
