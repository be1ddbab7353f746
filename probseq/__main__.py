"""The command line.

    python -m probseq compare DATA [--column NAME] [--models ar,lds,hmm,gru] [--plot out.png]
                                      [--report report.html] [--save DIR]
    python -m probseq write "some text" [--out text.svg | text.html] [--bias 0.5] [--model FILE]
    python -m probseq read strokes.json [--beam 25] [--plot out.png] [--model FILE]
    python -m probseq info

DATA is a CSV file or a built-in series; `probseq.evaluation.reading` says how a file is understood. Whatever is wrong
with the arguments is said in one line on stderr, with exit code 2.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from probseq.evaluation.compare import compare
from probseq.evaluation.defaults import MOST_LAGS, NAMES, default_model
from probseq.evaluation.reading import read_column
from probseq.evaluation.splitting import train_length
from probseq.handwriting import command

PROGRAM = "python -m probseq"


class _OneLineParser(argparse.ArgumentParser):
    """Errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 when the arguments or data are refused."""
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        if given.command == "compare":
            _compare(given)
        elif given.command == "write":
            _write(given)
        elif given.command == "read":
            _read(given)
        elif given.command == "info":
            _info()
        else:
            parser.print_help()
    except (ValueError, OSError) as error:
        notes = [f" ({note})" for note in getattr(error, "__notes__", [])]
        text = " ".join(f"{error}{''.join(notes)}".split())
        print(f"{PROGRAM} {given.command}: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{PROGRAM} {given.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _OneLineParser(prog=PROGRAM, description="Sequence models with one belief-state contract.")
    commands = parser.add_subparsers(dest="command", metavar="{compare,write,read,info}", parser_class=_OneLineParser)
    one = commands.add_parser(
        "compare",
        help="fit several families on the first part of a series and score the rest",
        description="Fit several families on the first part of a series and score the rest, step by step.",
    )
    one.add_argument("data", metavar="DATA", help="a CSV file, or a built-in series: earthquakes, nile, sunspots")
    one.add_argument("--column", metavar="NAME", help="the column to model, where there are several")
    one.add_argument("--models", type=_names, default=NAMES, metavar="LIST", help=",".join(NAMES))
    one.add_argument("--horizons", type=_horizons, default=(1, 5, 10), metavar="LIST", help="steps ahead: 1,5,10")
    one.add_argument("--train", type=_train, default=0.7, metavar="SHARE", help="share (0.7) or number of steps")
    one.add_argument("--seed", type=_seed, default=0, metavar="N", help="of every random number (0)")
    one.add_argument("--plot", type=Path, metavar="FILE", help="write a picture, such as out.png")
    one.add_argument("--report", type=Path, metavar="FILE", help="write a page with everything, such as report.html")
    one.add_argument("--save", type=Path, metavar="DIR", help="write the fitted models and table.csv there")
    two = commands.add_parser(
        "write",
        help="write a text by hand",
        description="Write a text by hand: a recurrent network moves the pen, no font is drawn.",
    )
    command.add_arguments(two)
    two.add_argument("--seed", type=_seed, default=0, metavar="N", help="of every random number (0)")
    three = commands.add_parser(
        "read",
        help="read a line of handwriting",
        description="Read a line of handwriting: strokes drawn on the page that `write` makes, or saved by it.",
    )
    command.add_reading_arguments(three)
    commands.add_parser("info", help="versions, threads and the cache of compiled kernels")
    return parser


# ---- arguments


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in NAMES:
            raise argparse.ArgumentTypeError(f"unknown model {name!r}; there are {', '.join(NAMES)}")
    if not names:
        raise argparse.ArgumentTypeError(f"no model named; there are {', '.join(NAMES)}")
    return names


def _horizons(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"must be positive integers with commas between, such as 1,5,10, got {text!r}")
    return found


def _train(text: str) -> float | int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value < 1:
        return value
    if value < 1 or value != round(value):
        raise argparse.ArgumentTypeError(f"must be a share between 0 and 1 or a number of steps, got {text!r}")
    return int(value)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a non-negative integer, got {text!r}")
    return int(text)


# ---- compare


def _compare(given: argparse.Namespace) -> None:
    """Read, fit, print; pictures and files are checked for before the work is done."""
    _check_outputs(given.plot, given.save)
    _check_report(given.report)
    y = read_column(given.data, given.column)
    n_train = train_length(len(y), given.train)
    with _told_of_compiling("about half a minute") as compiling, _one_thread():
        models = {name: default_model(name, y.iloc[:n_train], seed=given.seed) for name in given.models}
        result = compare(models, y, train=n_train, horizons=given.horizons, seed=given.seed)
    print(result.to_text(with_warnings=False))
    if compiling.told:
        print("fit s: this time kernels were compiled too", file=sys.stderr)
    if "ar" in models:
        print(f"ar: order {models['ar'].sizes()['order']}, by BIC on the training part among 1 .. {MOST_LAGS}")
    for name, messages in result.warnings.items():
        print(f"{name}: {'; '.join(messages)}", file=sys.stderr)
    if given.plot is not None:
        _picture(result, given.plot)
    if given.report is not None:
        result.report(given.report, title=f"Comparison on {Path(given.data).name}")
    if given.save is not None:
        given.save.mkdir(parents=True, exist_ok=True)
        for name, model in result.models.items():
            model.save(given.save / f"{name.replace(' ', '_')}.safetensors")
        result.table.to_csv(given.save / "table.csv")


def _check_outputs(plot: Path | None, save: Path | None) -> None:
    if save is not None and save.exists() and not save.is_dir():
        raise ValueError(f"--save must name a folder, {save} is a file")
    if plot is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('--plot needs matplotlib: pip install "probseq[plot]"') from error
    kinds = Figure().canvas.get_supported_filetypes()
    if plot.suffix.removeprefix(".").lower() not in kinds:
        raise ValueError(f"--plot must end in one of {', '.join(sorted(kinds))}, got {plot.name!r}")
    if not plot.parent.is_dir():
        raise ValueError(f"--plot must be in a folder that exists, there is no {plot.parent}")


def _check_report(report: Path | None) -> None:
    if report is None:
        return
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError('--report needs matplotlib: pip install "probseq[plot]"') from error
    del matplotlib  # only whether it is there
    if report.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--report must end in .html, got {report.name!r}")
    if not report.parent.is_dir():
        raise ValueError(f"--report must be in a folder that exists, there is no {report.parent}")


def _picture(result: Any, path: Path) -> None:
    """Draw without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.2), layout="constrained")
    result.plot(figure.subplots(2, 1, sharex=True, height_ratios=(3, 2)))
    figure.savefig(path, dpi=150)


@contextmanager
def _told_of_compiling(time: str) -> Generator[Any]:
    """Inside, the first kernel that is compiled and not read from the cache is announced on stderr; yields `.told`."""
    from numba.core import event

    class Announce(event.Listener):
        told = False

        def on_start(self, event: Any) -> None:
            function = getattr(event.data["dispatcher"], "py_func", None)
            if not self.told and str(getattr(function, "__module__", "")).startswith("probseq."):
                self.told = True
                print(f"compiling kernels once, {time} ...", file=sys.stderr, flush=True)

        def on_end(self, event: Any) -> None: ...

    with event.install_listener("numba:compile", Announce()) as announced:
        yield announced


@contextmanager
def _one_thread() -> Generator[None]:
    """Inside, torch uses one thread: these models are so small that threads would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ---- write


def _write(given: argparse.Namespace) -> None:
    """Draw a line from the network, without a display."""
    with _told_of_compiling("about ten seconds"), _one_thread():
        command.run(given)


# ---- read


def _read(given: argparse.Namespace) -> None:
    """Print what a line says, without a display."""
    with _told_of_compiling("about ten seconds"), _one_thread():
        command.read(given)


# ---- info


def _info() -> None:
    """Versions, threads and the kernel cache, without importing what is only reported."""
    import os
    import platform

    import numba
    import torch

    import probseq

    print(f"probseq       {probseq.__version__}  ({Path(probseq.__file__).parent})")
    print(f"python        {platform.python_version()}  ({platform.platform()})")
    for package in (
        "torch",
        "numpy",
        "scipy",
        "numba",
        "pandas",
        "scikit-learn",
        "scoringrules",
        "pyro-ppl",
        "matplotlib",
    ):
        print(f"{package:<13} {_version(package)}")
    print(f"threads       torch {torch.get_num_threads()}, numba {numba.get_num_threads()}, cores {os.cpu_count()}")
    print(f"kernel cache  {kernel_cache()}")


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'not installed (pip install "probseq[plot]")' if package == "matplotlib" else "not installed"


def kernel_cache() -> str:
    """Where compiled kernels are kept, how many functions of each module are there, and what that means."""
    import importlib
    import pkgutil

    import probseq.kernels as kernels

    counts: dict[str, int] = {}
    places: set[str] = set()
    for found in pkgutil.iter_modules(kernels.__path__):
        module = importlib.import_module(f"{kernels.__name__}.{found.name}")
        own = [value for value in vars(module).values() if _is_kernel(value, module.__name__)]
        counts[found.name] = sum(_is_compiled(kernel) for kernel in own)
        places |= {kernel.stats.cache_path for kernel in own}
    total = sum(counts.values())
    state = "cold: the first fit compiles, up to twenty seconds" if total == 0 else "warm"
    if total and not all(counts.values()):
        state = "partly warm"
    each = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{' '.join(sorted(places))}\n              {total} functions compiled ({each}); {state}"


def _is_kernel(value: Any, module: str) -> bool:
    from numba.core.registry import CPUDispatcher

    return isinstance(value, CPUDispatcher) and value.py_func.__module__ == module and bool(value.stats.cache_path)


def _is_compiled(kernel: Any) -> bool:
    """Whether the cache holds machine code that is newer than the source."""
    source = Path(kernel.py_func.__code__.co_filename)
    name = f"{source.stem}.{kernel.py_func.__qualname__}-{kernel.py_func.__code__.co_firstlineno}."
    entries = Path(kernel.stats.cache_path).glob(f"{name}*.nbi")
    return any(entry.stat().st_mtime >= source.stat().st_mtime for entry in entries)


if __name__ == "__main__":
    sys.exit(main())
