import numpy as np
import pytest
import torch

from mambadream_lite.agent import BuyAndHold
from mambadream_lite.dream import Dream
from mambadream_lite.market import Account, load_sp500
from mambadream_lite.model import MambaWorldModel
from mambadream_lite.show import widgets
from mambadream_lite.show.widgets import dream_explorer, halt_explorer

DATES = ["2007-06-29", "2008-09-15"]


@pytest.fixture(scope="module")
def world():
    market = load_sp500()
    torch.manual_seed(0)
    model = MambaWorldModel(d_model=16, d_state=4, n_components=2)
    model.fit_scaler(market.between("1999-01-01", "2005-01-01"))
    return model, market


def test_picture_is_drawn_at_once_and_again_on_click(world):
    box = dream_explorer(*world, DATES)
    day, *_, button, picture = box.children
    first = picture.value
    assert first.startswith("<svg") and DATES[0] in first
    day.value = DATES[1]
    assert picture.value == first  # nothing moves until the button is pressed
    button.click()
    assert DATES[1] in picture.value and picture.value != first


def test_same_settings_give_the_same_picture(world):
    pictures = [dream_explorer(*world, DATES, seed=3).children[-1].value for _ in range(2)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(("date", "why"), [("2008-09-14", "not a bar"), ("1999-06-01", "250")])
def test_a_date_that_cannot_be_dreamt_from_is_named(world, date, why):
    with pytest.raises(ValueError, match=f"{date}.*{why}"):
        dream_explorer(*world, [date])


def test_a_tighter_halt_leaves_fewer_dreams_and_says_how_many(world, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "mambadream_lite.show.widgets._svg",
        lambda dreams, came, date, alive: seen.append((dreams, alive)) or "<svg",
    )
    box = dream_explorer(*world, ["2007-06-29"])
    controls = {child.description: child for child in box.children if hasattr(child, "description")}
    for limit in (10.0, 2.0):
        controls["halt at (sds)"].value = limit
        controls["Dream"].click()
    (loose, most), (tight, fewer) = seen[-2:]
    assert fewer < most <= 1
    for dreams, alive in ((loose, most), (tight, fewer)):
        over = dreams.isnan()
        assert 1 - over[:, -1].double().mean().item() == pytest.approx(alive)
        assert (over[:, 1:] >= over[:, :-1]).all() and not over[:, 0].any()


def test_what_came_is_what_the_market_did(world, monkeypatch):
    """The line drawn beside the dreams begins at the close of the chosen day."""
    drawn = {}
    monkeypatch.setattr(
        "mambadream_lite.show.widgets._svg",
        lambda dreams, came, date, alive: drawn.update(came=came) or "<svg",
    )
    model, market = world
    dream_explorer(model, market, ["2008-09-15"])
    t = int(np.flatnonzero(market.time == np.datetime64("2008-09-15"))[0])
    close = market.price[0, t + 1]  # bar t ends at price t + 1
    assert drawn["came"][0] == 0
    expected = 100 * (market.price[0, t + 4] / close).log()
    torch.testing.assert_close(drawn["came"][3], expected)


# --- halts --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def doomed():
    """Paths that fall by a per cent a bar, and an agent that holds 30x of them."""
    log_price = torch.full((4, 25), -0.01, dtype=torch.float64).cumsum(1)
    price = log_price.exp()
    path = Dream(
        start=torch.zeros(4, 6),
        features=torch.zeros(4, 24, 6),
        reward=torch.zeros(4, 24),
        risk=torch.ones(4, 24),
        alive=torch.ones(4, 24, dtype=torch.bool),
        log_price=log_price,
        high=price[:, :-1],
        low=price[:, 1:],
    )
    return BuyAndHold(30.0), path, torch.linspace(0.1, 0.9, 24).repeat(4, 1)


def test_a_tighter_halt_saves_what_a_loose_one_loses(doomed) -> None:
    box = halt_explorer(*doomed, Account(), start=0.95, horizon=24)
    limit, ticks, picture = box.children
    first = picture.value
    assert first.startswith("<svg")
    assert "100% liquidated; 0% of the ticks forbidden" in shown(doomed, 0.95, 24)
    limit.value = 0.1
    assert picture.value != first
    assert "0% liquidated; 96% of the ticks forbidden" in shown(doomed, 0.1, 24)
    loose = picture.value
    ticks.value = 8
    assert picture.value != loose


def shown(doomed, limit: float, n: int) -> str:
    """The title that the picture bears."""
    titles = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(widgets, "_text", lambda figure: titles.append(figure.axes[0].get_title()))
        patch.setattr(widgets.widgets, "HTML", lambda: type("H", (), {"value": ""})())
        patch.setattr(widgets.widgets, "VBox", lambda *args, **more: None)
        halt_explorer(*doomed, Account(), start=limit, horizon=n)
    return titles[-1]


def test_a_disagreement_of_another_shape_is_refused(doomed) -> None:
    trader, path, said = doomed
    with pytest.raises(ValueError, match=r"^disagreement must be \(4, 24\), got \(4, 23\)"):
        halt_explorer(trader, path, said[:, 1:], Account(), start=0.5)
