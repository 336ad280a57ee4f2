"""Tables of a reproduction: what they say of the numbers, and what they refuse to hide."""

import json

import pytest

from fend.audit.rows.statistics import wilson_interval
from fend.threat import Knowledge
from reproduction.estimates import difference, estimate, leaves_more
from reproduction.figure import draw
from reproduction.markdown import to_markdown
from reproduction.result import AtLevel, CellResult, Measured, UnderThreat, from_marks, to_marks
from reproduction.sanity import violations
from reproduction.tables import DataTable, tables_of

N = 200


def _right(count: int, n: int = N) -> Measured:
    """The first `count` images right, all others wrong."""
    return Measured(correct=count, n=n, wrong=to_marks(range(count, n), range(n)))


def _cell(
    defence: str = "feature-loss",
    *,
    seed: int = 0,
    profile: str = "cpu",
    group: str = "defences",
    clean: int = 198,
    levels: dict[Knowledge, tuple[int, int, int]] | None = None,
    at_zero: int = 198,
    at_half: int = 0,
    loss: str = "squeezenet-imagenet fire magnitude 32px",
) -> CellResult:
    """A cell whose level keeps (FGSM, PGD, worst) images."""
    chosen = levels or {
        Knowledge.BLACK_BOX: (190, 190, 188),
        Knowledge.GREY_BOX: (160, 150, 148),
        Knowledge.GREY_BOX_AWARE: (140, 130, 128),
        Knowledge.WHITE_BOX: (40, 10, 2),
    }
    at = {
        level: AtLevel(fgsm=_right(fgsm), pgd=_right(pgd), worst=_right(worst))
        for level, (fgsm, pgd, worst) in chosen.items()
    }
    threat = UnderThreat(
        epsilon=0.2,
        levels=at,
        white_box_attacks=("PGD-100 from the image",),
        at_zero=_right(at_zero),
        at_half=_right(at_half),
    )
    return CellResult(
        key="k", data="mnist", group=group, defence=defence, seed=seed, profile=profile,
        recipe=f"mnist-{defence}", denoiser="paper-autoencoder", classifier="paper-lenet",
        loss=loss, train_images=100, classifier_epochs=1, denoiser_epochs=1, clean=_right(clean),
        clean_undefended=_right(clean), threats=(threat,), detection=(), model_version="sha256:0",
        dataset_digest="sha256:0", index_digest="sha256:0", train_s=1.0, attack_s=1.0,
        made_with={},
    )  # fmt: skip


def _table(*cells: CellResult) -> DataTable:
    [table] = tables_of(cells, ["mnist"])
    return table


def test_one_seed_has_the_interval_of_its_images_and_more_seeds_add_their_own():
    one = estimate([_right(100)])
    assert (one.low, one.high) == pytest.approx(wilson_interval(100, N))
    assert one.spread is None
    equal = estimate([_right(100)] * 3)
    assert (equal.low, equal.high) == pytest.approx((one.low, one.high))
    apart = estimate([_right(90), _right(100), _right(110)])
    assert apart.mean == one.mean
    assert apart.spread == pytest.approx(0.05)
    # 4.303 * 0.05 / sqrt(3), beside the images' own.
    assert apart.high - apart.mean == pytest.approx(
        (0.12422**2 + (one.high - 0.5) ** 2) ** 0.5, 1e-3
    )
    assert estimate([_right(N), _right(N - 60)]).high == 1.0  # no accuracy above 1


def test_a_difference_is_paired_and_signed():
    better = difference([_right(120)], [_right(100)])
    assert better.mean == pytest.approx(0.1)
    assert 0 < better.low < 0.1 < better.high
    worse = difference([_right(100)], [_right(120)])
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    assert difference([_right(100)], [_right(100)]).low < 0
    unsure = difference([_right(120), _right(100)], [_right(100), _right(100)])
    assert unsure.low < 0  # two seeds that disagree show nothing


def test_marks_are_small_and_read_back():
    images = [3, 7, 20, 21, 900]
    assert from_marks(to_marks({7, 900}, images)) == {1, 4}
    assert from_marks(to_marks(set(), images)) == frozenset()
    assert len(to_marks(set(range(10_000)), range(10_000))) == 2_500


def test_chance_is_not_taken_for_an_attack_that_failed():
    assert not leaves_more(_right(101), _right(100))
    assert leaves_more(_right(130), _right(100))
    assert not leaves_more(_right(100), _right(130))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (_cell(levels={Knowledge.GREY_BOX: (50, 50, 50), Knowledge.WHITE_BOX: (90, 90, 90)}),
         "white_box leaves 45.0%, grey_box only 25.0%"),
        (_cell(levels={Knowledge.GREY_BOX: (50, 90, 50), Knowledge.WHITE_BOX: (9, 9, 9)}),
         "grey_box: PGD leaves 45.0%, FGSM only 25.0%"),
        (_cell(at_zero=150), "epsilon 0 leaves 75.0%, and 99.0% are right clean"),
        (_cell(at_half=60), "epsilon 0.5 leaves 30.0%"),
        (_cell("unsecured", at_half=10), "epsilon 0.5 leaves 5.0%"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_flagged_in_the_table(cell, said):
    [found] = violations(cell, cell.under(0.2))
    assert said in found
    assert not violations(_cell(), _cell().under(0.2))
    text = to_markdown(_table(cell))
    assert "⚠" in text
    assert said in text
    assert "Nothing is flagged" in to_markdown(_table(_cell()))


def test_a_row_holds_the_papers_number_ours_and_white_box_and_says_what_made_it():
    table = _table(_cell(), _cell(seed=1))
    row = next(row for row in table.rows if row.defence == "feature-loss")
    assert row.paper == {"fgsm": 92.1, "pgd": 83.0}
    assert row.levels[Knowledge.GREY_BOX]["pgd"].mean == 0.75
    assert row.made.seeds == (0, 1)
    lines = to_markdown(table).splitlines()
    [line] = [item for item in lines if item.startswith("| PGD | OURS in the paper")]
    assert line.startswith("| PGD | OURS in the paper: `feature_loss` | 83.0 | 75.0 ± 0.0 (")
    assert line.endswith("| cpu | 0, 1 |")


def test_what_was_not_run_and_what_belongs_elsewhere_is_said():
    text = to_markdown(_table(_cell()))
    assert "| FGSM | MADRY (2017) | 96.4 [2] | not run |" in text
    assert "[2] The paper's number is that of the public MNIST challenge: epsilon 0.3" in text
    assert "not run" in to_markdown(_table())


def test_profiles_are_never_mixed_and_the_larger_one_counts():
    table = _table(_cell(seed=1), _cell(profile="full"), _cell(profile="smoke", seed=2))
    row = next(row for row in table.rows if row.defence == "feature-loss")
    assert (row.made.profile, row.made.seeds) == ("full", (0,))


def test_the_ablation_compares_the_same_seeds_of_the_same_profile():
    worse = {Knowledge.GREY_BOX: (100, 90, 90), Knowledge.WHITE_BOX: (2, 2, 2)}
    better = {Knowledge.GREY_BOX: (160, 150, 150), Knowledge.WHITE_BOX: (2, 2, 2)}
    table = _table(
        _cell("none", group="ablation", levels=worse, loss="pixels"),
        _cell("vgg16-cifar10-text", group="ablation", levels=better, loss="vgg16-cifar10 text"),
        _cell("vgg16-cifar10-text", group="ablation", seed=1, levels=better),
        _cell("feature-loss", profile="full"),
        _cell("pixel-mse"),  # of another profile than its rival: no row
    )
    [row] = table.ablation
    assert row.loss == "vgg16-cifar10 text"
    assert row.seeds == 1
    assert row.fgsm.mean == pytest.approx(0.3)
    assert row.white_box.mean == 0
    text = to_markdown(table)
    assert "**+30.0 (" in text
    assert "on 50.0 |" in text


def test_the_same_results_give_the_same_bytes(tmp_path):
    table = _table(_cell(), _cell("unsecured"))
    assert DataTable.model_validate(json.loads(table.model_dump_json())) == table
    for name in ("one", "two"):
        draw(table, tmp_path / f"{name}.svg")
    one, two = (tmp_path / "one.svg").read_bytes(), (tmp_path / "two.svg").read_bytes()
    assert one == two
    assert b"the paper says" in one
