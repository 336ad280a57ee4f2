import pytest

from training.recipe import Recipe, RecipeError, load_recipe, shipped_recipes


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_valid_and_named_after_their_file(name) -> None:
    assert load_recipe(name).name == name


def test_the_paper_recipe_is_the_papers() -> None:
    """Section 4.2, read as research says."""
    recipe = load_recipe("paper")
    assert (recipe.denoiser.epochs, recipe.denoiser.batch_size) == (100, 128)
    optimiser = recipe.denoiser.optimiser
    assert (optimiser.kind, optimiser.learning_rate, optimiser.weight_decay) == ("adam", 1e-3, 1e-5)
    assert recipe.adversaries.threat.epsilon == 0.2
    pgd = recipe.adversaries.attacks[1]
    assert (pgd.steps, pgd.step_size) == (100, 0.1)
    assert (recipe.loss.network, recipe.loss.scaling) == ("vgg16-imagenet", "elements")
    assert not recipe.adversaries.include_clean


def _edited(tmp_path, old: str, new: str) -> str:
    from importlib import resources

    text = (resources.files("training") / "recipes" / "paper.toml").read_text()
    assert old in text
    path = tmp_path / "edited.toml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("scaling =", "scalling =", "loss.scalling"),
        ("epochs = 100", "epochs = 0", "denoiser.epochs"),
        ('network = "vgg16-imagenet"', 'network = "vgg61"', "loss.network"),
        ("seed = 0", "seed = ", "not TOML"),
        ("held_out = 5000", "held_out = 5000\nsurprise = 1", "data.surprise"),
        ("epsilon = 0.2", "epsilon = -1", "adversaries.threat.epsilon"),
        ("step_size = 0.1", "step = 0.1", "adversaries.attacks.1.pgd.step"),
    ],
)
def test_an_error_names_the_key(tmp_path, old, new, said) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(_edited(tmp_path, old, new))


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(RecipeError, match="mnist-paper"):
        load_recipe("no-such-recipe")


def test_the_smoke_version_needs_no_data() -> None:
    smoke = load_recipe("mnist").smoke()
    assert smoke.data.train.startswith("rendered-digits")
    assert smoke.loss.network is None
    assert Recipe.model_validate(smoke.model_dump()) == smoke
