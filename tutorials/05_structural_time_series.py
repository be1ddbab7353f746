# %% [markdown]
# # A series in parts
#
# Every month the factories of the euro area that make electrical equipment report what they sold. The series rises
# for years, sags each August, peaks in autumn, and one winter it falls off a cliff. A structural model says so in as
# many words: the series is a *level* that wanders, plus a *season* that slowly changes its shape, plus noise,
#
#     y_t         = level_t + seasonal_t + v_t,         v_t ~ N(0, emission_var)
#     level_{t+1} = level_t + w_t,                      w_t ~ N(0, level_var)
#     seasonal_{t+1} = -(seasonal_t + ... + seasonal_{t-10}) + s_t,   s_t ~ N(0, seasonal_var)
#
# It is a linear dynamical system whose parameters have names. The Kalman filter gives its likelihood, months that were
# never reported included; the smoother takes the series apart; and what the smoother thinks of the noises finds what
# does not belong.

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import probseq as ps
from probseq import evaluation, plot

parser = argparse.ArgumentParser(description="Level, season, a break and missing months in one economic series.")
parser.add_argument("--output", default="structural_time_series.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="a short end of the series, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## The data, and two accidents
#
# Eurostat's turnover index comes with statsmodels; without it a series of the same kind is drawn here. We take
# logarithms times a hundred, so that a step of one is one per cent and the season is the same share in good years and
# bad. Then we spoil it, to have something to find: five months are lost, and in June 2002 two digits are
# swapped, 112.38 becomes 121.38.


# %%
def imitation() -> pd.Series:
    """A level that grows and breaks in January 2009, a season, and noise; an index."""
    rng, months = np.random.default_rng(0), pd.date_range("1995-01-01", periods=257, freq="MS")
    time = np.arange(257)
    level = 430 + 0.2 * time + rng.normal(scale=1.0, size=257).cumsum() - 25 * (months >= "2009-01-01")
    season = np.array([-12, -10, 6, -6, -9, 6, -4, -15, 11, 5, 9, 11])[time % 12]
    return pd.Series(np.exp((level + season + rng.normal(scale=1.5, size=257)) / 100), months, name="turnover")


def turnover() -> pd.Series:
    try:
        from statsmodels.datasets import elec_equip
    except ImportError:
        return imitation()
    table = elec_equip.load_pandas().data.iloc[:, 0]
    return pd.Series(table.to_numpy(dtype=float), pd.DatetimeIndex(table.index, freq="MS"), name="turnover")


reported = 100 * np.log(turnover())
if options.smoke:
    reported = reported["2000-01-01":"2013-12-01"]
lost = pd.DatetimeIndex(["2003-02-01", "2003-03-01", "2003-04-01", "2003-05-01", "2011-10-01"])
swapped = pd.Timestamp("2002-06-01")

y = reported.copy()
y[lost] = np.nan
y[swapped] += 100 * np.log(121.38 / 112.38)

# %% [markdown]
# ## The first fit, and what does not belong
#
# Three variances are learned by maximum likelihood. Before the first month nothing is known of level or season; the
# start is *exact diffuse*, so no large number has to be made up.
#
# Once fitted, the smoother can be asked for every noise in turn: given all of y, how large was v_t, the error of one
# month, and how large was w_t, the step of the level? Divided by what the model expects of such an estimate these are
# the *auxiliary residuals*. A large one of the first kind is an outlier, a month that nobody else confirms. A large
# one of the second kind is a break: everything after it agrees that something happened there.

# %%
plain = ps.Structural(level=True, seasonal=12).fit(y, seed=0)
print(plain.summary(), "\n")

auxiliary = evaluation.auxiliary_residuals(plain, y)
outliers = pd.Series(auxiliary.emission[:, 0].numpy(), y.index)
breaks = pd.Series(auxiliary.transition[:, plain.state_names.index("level")].numpy(), y.index)
outlier, broken = outliers.abs().idxmax(), breaks.abs().idxmax()
print(
    f"largest outlier  {outlier:%B %Y}  {outliers[outlier]:+.1f} standard deviations (digits swapped {swapped:%B %Y})"
)
print(f"largest break    {broken:%B %Y}  {breaks[broken]:+.1f} standard deviations\n")

# %% [markdown]
# ## The second fit
#
# The outlier is no news about the economy: it becomes one more missing month. The break was real, and it gets a
# regressor of its own, 0 before and 1 from then on. Its coefficient joins the state, of which nothing is known at
# first either, and the filter learns it like everything else. The level need no longer be able to jump: its variance
# comes down, and with it the width of every forecast.

# %%
clean = y.copy()
clean[outlier] = np.nan
step = pd.DataFrame({"step": (clean.index >= broken).astype(float)}, index=clean.index)
model = ps.Structural(level=True, seasonal=12, regressors=1).fit(clean, step, seed=0)
parts = model.components(clean, step)

last = ps.at(model.smooth(clean, step), -1)
fall, error = float(last.mean[-1]), float(last.std[-1])
spread = [float(one.level_var.detach().sqrt()) for one in (plain, model)]
print(f"the break: {fall:+.1f} % ± {error:.1f}")
print(f"the level moves by {spread[0]:.2f} % a month without it and by {spread[1]:.2f} % with it\n")

signal, deviation = parts.signal.mean.numpy(), parts.signal.std.square().add(model.emission_var.detach()).sqrt().numpy()
print("month      interpolated      reported")
for month in [*lost, outlier]:
    place = clean.index.get_loc(month)
    print(f"{month:%Y-%m}   {signal[place]:7.1f} ± {1.645 * deviation[place]:3.1f}   {reported[month]:9.1f}")

# %% [markdown]
# ## The picture
#
# Left the parts with bands of 90 %: the level with the data, the season, and the break; the line in green is level and
# break together. In the gap of 2003 the band of the level opens a little. Right the auxiliary residuals, where both
# accidents stand out from the rest, and a forecast of two years.

# %%
figure = plt.figure(figsize=(11, 7), layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
panels = plot.components(parts, clean, left.subplots(3, 1, sharex=True, height_ratios=(2, 1.2, 1)))
whole = pd.Series(parts.level.mean + parts.regression.mean, clean.index)[broken:]
panels[0].plot(whole, color=plot.PALETTE[2], linewidth=1.2)
panels[0].annotate("level and break", (clean.index[-1], 434), color=plot.PALETTE[2], ha="right", fontsize="small")
panels[0].set_ylabel("100 log turnover")
panels[2].set_title("regression: the break", loc="left", fontsize="medium", color=panels[2].lines[-1].get_color())
upper, middle, lower = right.subplots(3, 1, height_ratios=(1, 1, 1.6))
for axes, residuals, place, title in (
    (upper, outliers, outlier, "outliers: standardised $E[v_t | y]$"),
    (middle, breaks, broken, "breaks of the level: standardised $E[w_t | y]$"),
):
    axes.vlines(residuals.index, 0, residuals, color="0.6", linewidth=1)
    axes.vlines(place, 0, residuals[place], color=plot.PALETTE[1], linewidth=2)
    side = 6 if place < residuals.index[len(residuals) // 2] else -6
    axes.annotate(
        f"{place:%b %Y}",
        (place, residuals[place]),
        (side, 0),
        textcoords="offset points",
        color=plot.PALETTE[1],
        va="center",
        ha="left" if side > 0 else "right",
        fontsize="small",
    )
    axes.axhline(0, color="0.3", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize="medium")
ahead = model.forecast(clean, 24, step, future_u=np.ones((24, 1)))
plot.forecast_fan(clean, ahead, lower, n_history=60)
lower.set_title("the next two years", loc="left", fontsize="medium")
lower.set_ylabel("100 log turnover")
for axes in (*panels, lower):
    axes.set_xlabel("")
figure.savefig(options.output, dpi=50 if options.smoke else 150)

# %% [markdown]
# ## Does it forecast?
#
# The rule every forecaster of monthly data has to beat is the *seasonal naive* one: next June will be as last June. We
# fit the model to the months up to the end of 2010, keep its variances, and forecast from every later month the
# twelve months that follow, with what was known by then. The score is the mean absolute error, in per cent.

# %%
past = clean[:"2010-12-01"]
learned = ps.Structural(level=True, seasonal=12, regressors=1).fit(past, step.loc[past.index], seed=0)
origins = range(len(past), len(clean) - 12 + 1, 6 if options.smoke else 1)
misses: dict[str, list[np.ndarray]] = {"structural": [], "seasonal naive": []}
for now in origins:
    seen, coming = clean.iloc[:now], reported.iloc[now : now + 12].to_numpy()
    says = learned.forecast(seen, 12, step.iloc[:now], future_u=step.iloc[now : now + 12].to_numpy())
    year_ago = reported.iloc[now - 12 : now].to_numpy()  # the naive rule gets even the lost month
    misses["structural"].append(np.abs(says.mean[:, 0].numpy() - coming))
    misses["seasonal naive"].append(np.abs(year_ago - coming))

table = {name: np.array(rows) for name, rows in misses.items()}
print(f"\n{'mean absolute error, %':24s}{'1 month':>9s}{'3':>7s}{'6':>7s}{'12':>7s}{'all 12':>9s}")
for name, rows in table.items():
    print(
        f"{name:24s}{rows[:, 0].mean():9.2f}"
        + "".join(f"{rows[:, h].mean():7.2f}" for h in (2, 5, 11))
        + f"{rows.mean():9.2f}"
    )
print(
    f"result: {table['structural'].mean():.2f} % mean absolute error one to twelve months ahead "
    f"(trivial baseline: {table['seasonal naive'].mean():.2f} %, the same month of last year)"
)

# %% [markdown]
# ## Reading the numbers
#
# The largest outlier is the month whose digits we swapped, and the largest break is January 2009, when orders for
# machines collapsed after the financial crisis. Nobody told the model of either. The interpolated months lie
# within little more than two per cent of what was reported, and within their bands.
#
# A month ahead the model's error is less than half of the naive one's, since it knows where the level is now and the
# naive rule only where it was a year ago. At twelve months the advantage is gone: a level that walks at random is a
# year later as likely up as down, and "as last year" is then as good a guess of it. What the model adds there is
# the band around the guess.
#
# It is the same model as `ps.LDS` with its matrices filled in; `trend=True` adds a slope, `cycle=True` a business
# cycle, `fourier={12: 3}` a season from a few waves, and `ps.compare` scores them beside every other family.
