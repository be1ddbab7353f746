# %% [markdown]
# # A small odyssey
#
# Which parts of an LSTM cell are needed? Greff et al. (2015, arXiv:1503.04069) took them away one at a time: nine
# cells, the usual one with peepholes and eight without one of its parts, on three tasks, each with two hundred random
# choices of the learning rate, the size and the noise; fifteen years of computing. Their answer: the forget gate and
# the output activation are the critical ones, the others hardly matter, and of what one can choose the learning rate
# decides most by far.
#
# The same experiment fits into a script, if one is modest: one small task, a handful of runs for each cell. It can show
# how such a search is made and how much it can say. It cannot say which of two cells that differ by little is the
# better, and the figures below will show why.

# %%
import argparse
import warnings

import matplotlib.pyplot as plt
import numpy as np

import probseq as ps

try:
    import optuna
except ImportError as error:
    raise SystemExit('this tutorial draws with Optuna: pip install "probseq[search]"') from error

parser = argparse.ArgumentParser(description="Nine LSTM cells by random search on an embedded Reber grammar.")
parser.add_argument("--output", default="search_space.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few runs of few passes, to see that it runs")
options, _ = parser.parse_known_args()

n_runs, n_passes, n_strings = (1, 1, 12) if options.smoke else (8, 12, 300)

# %% [markdown]
# ## The nine cells
#
# Each is `ps.cells.LSTM` with one flag. All run on the same compiled kernel, so that they cost about the same.

# %%
variants = {
    "vanilla": {},
    "no input gate": {"input_gate": False},
    "no forget gate": {"forget_gate": False},
    "no output gate": {"output_gate": False},
    "no input activation": {"input_activation": False},
    "no output activation": {"output_activation": False},
    "no peepholes": {"peepholes": False},
    "coupled gates": {"coupled": True},
    "full gate recurrence": {"full_gate_recurrence": True},
}

# %% [markdown]
# ## The task
#
# Strings of the embedded Reber grammar, `B T ... T E` or `B P ... P E` around a string of a small automaton. The
# symbols in the middle need a short memory; the last but one repeats the second, however long ago that was. The score
# is the held-out log-probability per symbol, and what no model can beat is known: the strings' own law. The baseline
# looks one symbol back.


# %%
def strings(n: int, seed: int) -> list[np.ndarray]:
    return [string.astype(float) for string in ps.datasets.reber_grammar(n, embedded=True, seed=seed)]


train, held, test = strings(n_strings, 0), strings(n_strings // 2, 1), strings(n_strings, 2)


def entropy(data: list[np.ndarray]) -> float:
    """Minus the grammar's own log-probability per symbol: every choice between two letters costs log 2."""
    letters = ["".join(ps.datasets.REBER_SYMBOLS[int(symbol)] for symbol in string) for string in data]
    # one for the side, then all but the end of the string inside (its B and E and the four letters around are certain)
    choices = sum(1 + len(word) - 6 for word in letters)
    return choices * np.log(2) / sum(map(len, letters))


def bigram(data: list[np.ndarray]) -> float:
    """Nats per symbol of the pair frequencies of the training strings."""
    counts = np.full((8, 7), 0.5)
    for string in train:
        np.add.at(counts, (np.r_[7, string[:-1]].astype(int), string.astype(int)), 1)
    table = np.log(counts / counts.sum(1, keepdims=True))
    found = [table[np.r_[7, string[:-1]].astype(int), string.astype(int)] for string in data]
    return float(np.concatenate(found).mean())


baseline, ceiling = bigram(test), -entropy(test)
print(f"one symbol back: {baseline:.3f} nats per symbol; the grammar itself: {ceiling:.3f}\n")

# %% [markdown]
# ## Random search
#
# Sizes and rates are drawn uniformly on a logarithmic scale, the noise on the weights uniformly, afresh for every run
# and every cell, as in the paper. `optuna` draws them and keeps the books; its cleverer samplers stay off, because they
# would spend the runs where it is good already, and the question is about all of the space.

# %%
optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(name: str, seed: int) -> optuna.Study:
    """`n_runs` networks of one variant; the value of a run is its held-out score."""

    def score(trial: optuna.Trial) -> float:
        size = trial.suggest_int("hidden units", 4, 40, log=True)
        rate = trial.suggest_float("learning rate", 1e-3, 1e-1, log=True)
        noise = trial.suggest_float("weight noise", 1e-3, 0.2)
        cell = ps.cells.LSTM(size, **{"peepholes": True, **variants[name]})
        model = ps.RNN(cell=cell, head=ps.heads.Categorical(7))
        model.fit(
            train, validation=held, seed=trial.number, batch_size=20, max_iterations=n_passes, learning_rate=rate,
            weight_noise=noise,
        )  # fmt: skip
        trial.set_user_attr("test", model.score(test))
        return model.score(held)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
    study.optimize(score, n_trials=n_runs)
    return study


chosen = dict(list(variants.items())[:3]) if options.smoke else variants
studies = {name: search(name, seed) for seed, name in enumerate(chosen)}
print(f"{'test nats per symbol':22s}{'best':>8s}{'median':>8s}{'worst':>8s}   ({n_runs} runs each)")
found = {name: np.array([trial.user_attrs["test"] for trial in study.trials]) for name, study in studies.items()}
for name, scores in found.items():
    print(f"{name:22s}{scores.max():8.3f}{np.median(scores):8.3f}{scores.min():8.3f}")

# %% [markdown]
# ## What decides
#
# The functional analysis of variance (Hutter, Hoos & Leyton-Brown 2014) fits a forest to the scores of the runs and
# asks it how much of their variance each choice explains by itself. All runs of all cells go into one analysis, with
# the cell as one more choice. Optuna's default way of measuring importance changes with its versions, so it is named.

# %%
together = optuna.create_study(direction="maximize")
for name, study in studies.items():
    for trial in study.trials:
        cells = optuna.distributions.CategoricalDistribution(list(chosen))
        together.add_trial(
            optuna.trial.create_trial(
                params={**trial.params, "cell": name},
                distributions={**trial.distributions, "cell": cells},
                value=max(trial.value, baseline - 1),
            )
        )
with warnings.catch_warnings():
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
importance = optuna.importance.get_param_importances(together, evaluator=evaluator)
print("\nshare of the variance of scores explained by each choice alone (fANOVA)")
for choice, share in importance.items():
    print(f"  {choice:15s}{share:6.2f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained", width_ratios=(1.25, 1))
order = sorted(found, key=lambda name: np.median(found[name]))
lowest = baseline - 0.25
left.boxplot([np.maximum(found[name], lowest) for name in order], orientation="horizontal", widths=0.6)
left.set_yticks(range(1, len(order) + 1), order)
for place, name in enumerate(order, 1):
    left.plot(np.maximum(found[name], lowest), np.full(len(found[name]), place), ".", color="tab:blue", alpha=0.6)
for value, words in ((baseline, "one symbol back"), (ceiling, "the grammar")):
    left.axvline(value, color="tab:red", lw=1, ls="--")
    left.annotate(words, (value, len(order) + 0.65), ha="right", fontsize="small", color="tab:red")
left.set_ylim(0.4, len(order) + 1.1)
left.set_xlabel("test nats per symbol")
for name in order:
    rates = [trial.params["learning rate"] for trial in studies[name].trials]
    right.plot(rates, np.maximum(found[name], lowest), ".", label=name)
right.set(xscale="log", xlabel="learning rate", ylabel="test nats per symbol")
right.axhline(baseline, color="tab:red", lw=1, ls="--")
right.legend(fontsize="x-small", ncols=2)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

best = max(studies, key=lambda name: studies[name].best_value)
print(
    f"\nresult: {studies[best].best_trial.user_attrs['test']:.3f} nats per symbol, {best} "
    f"(trivial baseline: {baseline:.3f}, one symbol back)"
)

# %% [markdown]
# ## Reading it
#
# A row of the table is a sample of a few runs, and the spread within a row is what the choice of rate, size and noise
# makes. A difference between two cells means something only where it is large beside that spread over the root of
# the number of runs; raise `n_runs` to see more. The shares of the forest have the same limits: they say what mattered
# among the runs that were made.
