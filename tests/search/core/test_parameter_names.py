"""Short names of parameters."""

from search.core.parameter_names import short_names


def test_names_are_short_and_say_what_they_are_of() -> None:
    assert short_names(
        [
            "student.name",
            "student.width",
            "recipe.quantizer.weight_bits",
            "recipe.optimizer.learning_rate",
            "recipe.step_learning_rate.weight",
            "recipe.losses.pixelwise.weight",
            "recipe.losses.extra.name",
            "recipe.self_study",
            "batch_size",
        ]
    ) == {
        "student.name": "student",
        "student.width": "width",
        "recipe.quantizer.weight_bits": "weight_bits",
        "recipe.optimizer.learning_rate": "learning_rate",
        "recipe.step_learning_rate.weight": "step_learning_rate.weight",
        "recipe.losses.pixelwise.weight": "pixelwise.weight",
        "recipe.losses.extra.name": "extra",
        "recipe.self_study": "self_study",
        "batch_size": "batch_size",
    }


def test_paths_that_would_share_a_name_keep_their_own() -> None:
    names = short_names(["student.width", "recipe.width", "student.depth"])
    assert names == {
        "student.width": "student.width",
        "recipe.width": "recipe.width",
        "student.depth": "depth",
    }
