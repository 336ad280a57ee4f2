"""Recipes: what is shipped, what may be written, and how one is laid over another."""

import subprocess
import sys
from importlib import resources

import pytest

from training.recipe import Recipe, RecipeError
from training.recipe.files import load_recipe, overlaid, shipped_recipes
from training.recipe.smaller import smoke

FULL_ONLY = ["mnist-online", "mnist-paper", "mnist-static", "photo-online", "signs"]

DEFENCES = [
    "unsecured",
    "madry",
    "trades",
    "alp",
    "hgd",
    "hgd-feature",
    "hgd-pixel",
    "pixel-mse",
    "feature-loss",
    "feature-squeezing",
    "noise-reduction",
    "feature-denoise",
    "smoothing",
]


@pytest.mark.parametrize("defence", DEFENCES)
def test_every_defence_has_a_cpu_budget_and_the_same_images(defence) -> None:
    unsecured = load_recipe("mnist-unsecured", profile="cpu")
    recipe = load_recipe(f"mnist-{defence}", profile="cpu")
    assert recipe.profile == "cpu"
    assert recipe.data == unsecured.data
    assert recipe.data.limit == 20_000
    if recipe.classifier.adversarial is None:
        assert recipe.classifier == unsecured.classifier  # so that it is trained once


@pytest.mark.parametrize("profile", ["full", "cpu"])
@pytest.mark.parametrize("data", ["mnist", "cifar10-grey"])
def test_the_ablation_differs_in_its_loss_network_alone(data, profile) -> None:
    paper = load_recipe(f"{data}-feature-loss", profile=profile)
    ablation = load_recipe(f"{data}-pixel-mse", profile=profile)
    changed = paper.loss.model_copy(update={"network": None})
    own = {"name": ablation.name, "summary": ablation.summary, "loss": changed}
    assert ablation == paper.model_copy(update=own)


def test_the_paper_recipe_is_the_papers() -> None:
    """Section 4.2, read as docs/training.md says."""
    recipe = load_recipe("paper")
    assert (recipe.denoiser.epochs, recipe.denoiser.batch_size) == (100, 128)
    optimiser = recipe.denoiser.optimiser
    assert (optimiser.kind, optimiser.learning_rate, optimiser.weight_decay) == ("adam", 1e-3, 1e-5)
    assert recipe.adversaries.threat.epsilon == 0.2
    pgd = recipe.adversaries.attacks[1]
    assert pgd.name == "pgd"
    assert (pgd.steps, pgd.step_size) == (100, 0.1)
    assert not recipe.adversaries.include_clean
    loss = recipe.loss
    assert (loss.network, loss.taps, loss.scaling) == ("vgg16-imagenet", "text", "elements")
    assert (loss.distance, loss.feature_weight, loss.pixel_weight) == ("squared", 1, 1)


def _edited(tmp_path, name: str, old: str, new: str) -> str:
    text = (resources.files("training") / "recipes" / f"{name}.toml").read_text()
    assert old in text
    path = tmp_path / "edited.toml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("mnist-feature-loss", "scaling =", "scalling =", "loss.scalling"),
        ("mnist-feature-loss", "epochs = 100", "epochs = -1", "denoiser.epochs"),
        ("mnist-feature-loss", "epochs = 100", "epochs = 0", "adversaries, loss"),
        ("mnist-feature-loss", '"vgg16-imagenet"', '"vgg61"', "loss.network"),
        ("mnist-feature-loss", '"text"', '"fire"', "vgg16-imagenet has no 'fire'.*shapes"),
        ("mnist-feature-loss", "epsilon = 0.2", "epsilon = -1", "adversaries.threat.epsilon"),
        ("mnist-feature-loss", "step_size = 0.1", "step = 0.1", "adversaries.attacks.1.pgd.step"),
        ("mnist-unsecured", "seed = 0", "seed = ", "not TOML"),
        ("mnist-unsecured", "held_out = 5000", "held_out = 5000\nsurprise = 1", "data.surprise"),
        ("mnist-unsecured", "[classifier]", "[denoiser]\nepochs = 3\n[classifier]", "adversaries"),
        ("mnist-unsecured", '"sgd"', '"adam"', "momentum is for sgd"),
        ("mnist-madry", '"madry"', '"trades"', "weight belongs to trades"),
        ("mnist-madry", 'name = "mnist-madry"', "", "name: Field required"),
        ("mnist-madry", '"mnist-unsecured"', '"mnist-unsecurd"', "no recipe 'mnist-unsecurd'"),
        ("mnist-hgd", '"logits"', '"relu3_2"', "classifier has no 'relu3_2'.*features, logits"),
    ],
)
def test_an_error_names_the_key(tmp_path, name, old, new, said) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(_edited(tmp_path, name, old, new))


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_can_be_read_at_every_budget(name) -> None:
    assert load_recipe(name).name == name
    if name in FULL_ONLY:
        with pytest.raises(RecipeError, match="has no profile 'cpu'"):
            load_recipe(name, profile="cpu")
    else:
        assert load_recipe(name, profile="cpu").profile == "cpu"


def test_an_unknown_recipe_or_profile_lists_those_there_are() -> None:
    with pytest.raises(RecipeError, match="mnist-paper"):
        load_recipe("no-such-recipe")
    with pytest.raises(RecipeError, match="'gpu'; it has: full, cpu"):
        load_recipe("mnist-madry", profile="gpu")


def test_a_recipe_extends_a_file_beside_it_but_not_itself(tmp_path) -> None:
    (tmp_path / "base.toml").write_text('extends = "mnist-madry"\nname = "base"\nsummary = "b"')
    (tmp_path / "mine.toml").write_text(
        'extends = "base.toml"\nname = "mine"\nsummary = "m"\n[classifier]\nepochs = 3'
    )
    mine, madry = load_recipe(str(tmp_path / "mine.toml")), load_recipe("mnist-madry")
    assert mine.classifier == madry.classifier.model_copy(update={"epochs": 3})
    (tmp_path / "loop.toml").write_text('extends = "loop.toml"\nname = "x"\nsummary = "x"')
    with pytest.raises(RecipeError, match="no other recipe"):
        load_recipe(str(tmp_path / "loop.toml"))


def test_tables_merge_and_what_belongs_to_another_thing_goes() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "net": {"architecture": "x", "config": {"w": 1, "v": 2}}}
    assert overlaid(base, {"a": {"c": [3]}}) == base | {"a": {"b": 1, "c": [3]}}
    narrower = overlaid(base, {"net": {"config": {"w": 3}}})
    assert narrower["net"]["config"] == {"w": 3, "v": 2}
    other = overlaid(base, {"net": {"architecture": "y"}})
    assert other["net"] == {"architecture": "y"}
    sgd = {"optimiser": {"kind": "sgd", "momentum": 0.5}}
    assert overlaid(sgd, {"optimiser": {"kind": "adam"}}) == {"optimiser": {"kind": "adam"}}


def test_changes_are_laid_over_the_profile() -> None:
    changes = [
        "data.limit=77",
        "data.train=cifar10-grey:train",
        'data.test = "cifar10-grey:test"',
        "loss.network=vgg16-cifar10",
        "loss.taps=shapes",
        "name=mine",
        'denoiser.architecture="residual-unet"',
        "denoiser.config={width=8}",
    ]
    plain = load_recipe("mnist-feature-loss", profile="cpu")
    recipe = load_recipe("mnist-feature-loss", profile="cpu", changes=changes)
    assert (recipe.name, recipe.data.limit) == ("mine", 77)
    assert (recipe.data.train, recipe.data.test) == ("cifar10-grey:train", "cifar10-grey:test")
    assert (recipe.loss.network, recipe.loss.taps) == ("vgg16-cifar10", "shapes")
    assert recipe.denoiser.config == {"width": 8}
    assert recipe.denoiser.epochs == plain.denoiser.epochs


STATIC = 'adversaries={threat={epsilon=0.1}, attacks=[{name="fgsm"}]}'
TRADES = (
    'joint.adversarial={kind="trades", weight=1.0, attack="n-fgsm", threat={epsilon=0.1}, steps=1}'
)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("mnist-smoothing", ["noise.sigma=0"], "noise.sigma"),
        ("mnist-smoothing", ["denoiser.epochs=0"], "would use these sections: noise, loss"),
        ("mnist-smoothing", [STATIC], "noise: makes all"),
        ("mnist-ibp", ["ibp.epsilon=0"], "ibp.epsilon"),
        ("mnist-ibp", ["loss={}"], "ibp: has a loss of its own"),
        ("mnist-ibp", ["noise={sigma=0.5}"], "makes all it is shown"),
        ("mnist-ibp", ["denoiser.epochs=0"], "nothing would use these sections: ibp"),
        ("signs", ["joint.adversarial.steps=2"], "n-fgsm makes one step"),
        ("signs", [TRADES], "n-fgsm makes one step"),
        ("signs", ["joint.adversarial.threat={norm='l2', epsilon=1}"], "norm linf"),
        ("signs", ["joint.adversarial.attack=pgd"], "weakest is for n-fgsm"),
        ("mnist", ["loss.task_weight=1.0"], "guides nothing"),
        ("mnist", ['loss={network="classifier", taps="logits"}'], "guides nothing"),
        ("mnist", [STATIC], "makes all it is shown"),
        ("mnist", ["denoiser.epochs=0"], "nothing would use these sections: joint"),
        ("mnist", ["classifier.factory=a:b"], "as it is"),
        ("mnist-online", ["classifier.factory=a:b", "classifier.from_bundle=c"], "both"),
        ("mnist-online", ["classifier.weights=w"], "factory"),
        ("mnist-madry", ["classifier.factory=a:b"], "adversarial"),
        ("mnist-hgd", ["data.limits=1"], "data.limits"),
        ("mnist-hgd", ["data.limit=many"], "data.limit"),
        ("mnist-hgd", ["seed"], "not KEY=VALUE"),
        ("mnist-hgd", ["loss.network=none"], "all weights are zero"),
    ],
)
def test_changes_that_do_not_fit_are_refused(name, changes, said) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(name, changes=changes)


def test_another_seed_goes_into_the_name() -> None:
    assert load_recipe("mnist-madry", seed=0).name == "mnist-madry"
    other = load_recipe("mnist-madry", seed=2)
    assert (other.name, other.seed) == ("mnist-madry-seed2", 2)


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_smoke_version_needs_no_data(name) -> None:
    small = smoke(load_recipe(name))
    assert small.data.train.startswith("rendered-digits")
    assert small.loss is None or small.loss.network in (None, "classifier")
    assert Recipe.model_validate(small.model_dump(mode="json")) == small


def test_a_typo_is_told_without_tensorboard_and_its_lack_in_one_sentence(tmp_path) -> None:
    def train(returncode: int, *options: str) -> str:
        code = (
            "import sys; sys.modules['tensorboard'] = None; from fend.cli.main import main; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "train", "mnist-unsecured", *options],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == returncode, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "classifier.epoch: Extra inputs" in train(2, "--set", "classifier.epoch=3")
    assert "pip install -e" in train(1, "--smoke")
