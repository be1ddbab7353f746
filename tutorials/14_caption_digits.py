# %% [markdown]
# # A caption for a picture
#
# A network that looks at pictures ends in a vector of features; a network that writes begins with a state. Put one
# where the other begins and a picture can be described: *one to many*. Vinyals et al. (2015, Show and Tell) captioned
# photographs so. Here the pictures are the 1,797 handwritten digits of scikit-learn, 8 x 8 pixels, and the caption of
# a digit is its name in English, letter by letter:
#
#     features = filters(picture)                     # a small bank of edge detectors, pooled: the "CNN"
#     h_0      = start + S features                   # the "+": the only place where the picture comes in
#     for t in 0, 1, ...:
#         letter_t ~ head(h_t)
#         h_{t+1}  = cell(h_t, letter_t)              # from here on the network reads what was written
#
# `start_from_inputs=True` is the second line: features stand in u_0, zeros follow. The score is log p(caption |
# picture), per letter, on pictures that were held out.

# %%
import argparse

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import probseq as ps
from probseq import plot

parser = argparse.ArgumentParser(description="Captions for digits: a recurrent network started by a picture.")
parser.add_argument("--output", default="caption_digits.png", help="where the figure goes")
parser.add_argument("--smoke", action="store_true", help="few pictures and passes, to see that it runs")
options, _ = parser.parse_known_args()

# %% [markdown]
# ## Pictures and captions
#
# The captions end with a full stop, so that the network can say that it is done; what follows is missing.

# %%
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ALPHABET = [*sorted({letter for name in NAMES for letter in name}), "."]
LENGTH = max(map(len, NAMES)) + 1

digits = load_digits()
order = np.random.default_rng(0).permutation(len(digits.target))
pictures, labels = digits.images[order] / 16, digits.target[order]
if options.smoke:
    pictures, labels = pictures[:300], labels[:300]


def caption(name: str) -> np.ndarray:
    """Letters as numbers, NaN after the full stop; (LENGTH, 1)."""
    letters = [float(ALPHABET.index(letter)) for letter in name + "."]
    return np.array(letters + [np.nan] * (LENGTH - len(letters)))[:, None]


def spell(letters: torch.Tensor) -> str:
    """A caption up to its full stop."""
    return "".join(ALPHABET[int(letter)] for letter in letters).partition(".")[0]


# %% [markdown]
# ## Looking
#
# Eight edge detectors, the same at every place, a rectifier, and the largest response in each quarter-overlapping
# window: the first stage of a convolutional network, with filters that nobody had to learn.


# %%
def look(images: np.ndarray) -> np.ndarray:
    """Features (N, 8 * 9) of pictures (N, 8, 8)."""
    edge = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    slant = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 1.0], [-2.0, -1.0, 0.0]])
    filters = torch.stack([torch.rot90(one, k) for one in (edge, slant) for k in range(4)]).unsqueeze(1)
    seen = torch.as_tensor(images, dtype=torch.float32).unsqueeze(1)
    responses = torch.relu(torch.nn.functional.conv2d(seen, filters, padding=1))
    return torch.nn.functional.max_pool2d(responses, 4, stride=2).flatten(1).double().numpy()


def start(features: np.ndarray) -> np.ndarray:
    """Inputs (N, LENGTH, F): the features at the first step, zeros after it."""
    inputs = np.zeros((len(features), LENGTH, features.shape[1]))
    inputs[:, 0] = features
    return inputs


features = look(pictures)
features = (features - features.mean(0)) / (features.std(0) + 1e-3 * features.std())
captions = np.stack([caption(NAMES[label]) for label in labels])
n_train = int(0.7 * len(labels))
n_known = int(0.85 * n_train)

# %% [markdown]
# ## Learning to write
#
# One model, fitted by the likelihood of captions given pictures. Beside it the same network without the picture: it
# learns to spell the ten names and says each of them a tenth of the time, which is what a caption is worth that was
# written blind: log 10 nats, spread over the letters.

# %%
n_units, n_passes = (16, 3) if options.smoke else (48, 150)


def writer(n_features: int) -> ps.RNN:
    seeing = {"input_dim": n_features, "start_from_inputs": True} if n_features else {}
    head = ps.heads.Categorical(len(ALPHABET))
    return ps.RNN(cell=ps.cells.GRU(n_units), head=head, dropout=0.2, seed=0, **seeing)


settings = {"max_iterations": n_passes, "learning_rate": 1e-2, "batch_size": 64, "patience": 20, "seed": 0}
train, known, test = slice(0, n_known), slice(n_known, n_train), slice(n_train, None)
seeing = writer(features.shape[1]).fit(
    captions[train], start(features[train]), validation=(captions[known], start(features[known])), **settings
)
blind = writer(0).fit(captions[train], validation=captions[known], **settings)
scores = {
    "seeing": -seeing.score(captions[test], start(features[test])),
    "blind": -blind.score(captions[test]),
}
for name, nats in scores.items():
    print(f"{name:8s}{nats:7.3f} nats per letter")

# %% [markdown]
# ## Writing
#
# A caption can be drawn, letter by letter. Or one can ask for the probability of each of the ten names, since a model
# of p(caption | picture) is also a classifier, by Bayes' rule.

# %%
everyone = np.stack([caption(name) for name in NAMES])


@torch.no_grad()
def posterior(images: np.ndarray) -> torch.Tensor:
    """p(name | picture), (N, 10)."""
    inputs = np.repeat(start(images), len(NAMES), 0)
    log_probs = seeing.log_prob(np.tile(everyone, (len(images), 1, 1)), inputs).reshape(-1, len(NAMES))
    return log_probs.softmax(-1)


said = posterior(features[test])
right = float((said.argmax(-1).numpy() == labels[test]).mean())
print(f"the most probable name is the right one for {100 * right:.1f} % of {len(said)} unseen digits")

drawn = [spell(seeing.sample(LENGTH, u=one, seed=0)[:, 0]) for one in start(features[test][:60])]
exact = np.mean([word == NAMES[label] for word, label in zip(drawn, labels[test][:60], strict=True)])
print(f"of 60 drawn captions {100 * exact:.0f} % are the right name; others: {sorted({*drawn} - {*NAMES})}")

# %% [markdown]
# ## Where does it know?
#
# Above, pictures with a caption each, drawn from the model. Below, how the uncertainty falls: nats per letter by place.
# The blind network pays where the names part ways, at the first letter and, as in two and three, at the second; then
# it knows how to go on. The seeing network pays a small part of it, for the few digits that could be two things: it may
# begin one name and end another, since its state is a point and not a choice.

# %%
figure = plt.figure(figsize=(10, 6.4), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=(1.2, 1))
for axes, image, word, label in zip(
    top.subplots(3, 10).flat, pictures[test], drawn, labels[test], strict=False
):  # as many as there is room for
    axes.imshow(image, cmap="Greys")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    good = word == NAMES[label]
    axes.set_title(word, fontsize="small", pad=2, color=plot.INK if good else plot.PALETTE[1])
left, right_axes = bottom.subplots(1, 2, width_ratios=(1, 1.3))
for (name, model), color in zip({"seeing": seeing, "blind": blind}.items(), plot.PALETTE, strict=False):
    inputs = (start(features[test]),) if name == "seeing" else ()
    steps = model.filter(captions[test], *inputs).log_prob.numpy()
    shown = ~np.isnan(captions[test][..., 0])
    by_place = -(steps * shown).sum(0) / shown.sum(0)
    left.plot(np.arange(1, LENGTH + 1), by_place, "o-", color=color)
    left.annotate(name, (1, by_place[0]), (8, 4), textcoords="offset points", color=color)
left.set(xlabel="letter", ylabel="nats")
left.set_title("what each letter costs", loc="left", fontsize="medium")
table = np.stack([said[labels[test] == k].mean(0).numpy() for k in range(10)])
image = right_axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
right_axes.set_xticks(range(10), NAMES, rotation=45, ha="right", fontsize="small")
right_axes.set_yticks(range(10), [str(k) for k in range(10)])
right_axes.set_title("p(name | digit), averaged over unseen digits", loc="left", fontsize="medium")
figure.colorbar(image, ax=right_axes, shrink=0.9).outline.set_visible(False)
for axes in (left, right_axes):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig(options.output, dpi=50 if options.smoke else 150)

print(
    f"result: {scores['seeing']:.3f} nats per letter of an unseen digit's caption "
    f"(trivial baseline: {scores['blind']:.3f}, the same network without the picture)"
)
