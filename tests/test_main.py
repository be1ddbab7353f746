"""The command line: in process where it works, as its own process where exit code and stderr are the point."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
import pytest
from statsmodels.tsa.ar_model import AutoReg

import probseq as ps
from probseq import __main__ as command
from probseq.evaluation.defaults import MOST_LAGS, ar_bic, ar_order, default_model
from probseq.evaluation.reading import read_column

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    start = ["-m", "probseq"] if code is None else ["-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *start, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=120
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that exits with 2 and prints nothing else."""
    try:
        code = command.main(arguments)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("python -m probseq")
    return err


def write_csv(folder: Path, text: str, name: str = "data.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def noise(n: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n).cumsum()


# ---- as its own process


def test_a_wrong_argument_is_one_line_and_exit_code_two_without_a_traceback() -> None:
    done = run("compare", "nowhere.csv")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "there is no file nowhere.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_info_tells_versions_and_the_cache_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from probseq.__main__ import main; main(['info']); "
        "heavy = ('sklearn', 'matplotlib', 'pandas', 'scoringrules', 'pyro'); "
        "print('heavy:', [name for name in heavy if name in sys.modules])"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    for words in (f"probseq       {ps.__version__}", "python ", "torch ", "numba ", "threads ", "kernel cache"):
        assert words in done.stdout
    assert done.stdout.endswith("heavy: []\n")


def test_an_empty_kernel_cache_is_called_cold(tmp_path: Path) -> None:
    start = f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}; "
    done = run(code=start + "from probseq import __main__ as m; m.main(['info'])")
    assert done.returncode == 0, done.stderr
    assert "0 functions compiled" in done.stdout
    assert "cold" in done.stdout.splitlines()[-1]
    assert str(tmp_path) in done.stdout


@pytest.mark.slow
def test_a_run_with_an_empty_cache_announces_that_it_compiles_and_leaves_it_warm(tmp_path: Path) -> None:
    code = (
        f"import os; os.environ['NUMBA_CACHE_DIR'] = {str(tmp_path)!r}; from probseq import __main__ as m; "
        "m.main(['compare', 'nile', '--models', 'hmm']); print(m.kernel_cache())"
    )
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("compiling kernels once") == 1
    assert "fit s: this time kernels were compiled too" in done.stderr
    assert "warm" in done.stdout.splitlines()[-1]


# ---- in process


def test_compare_prints_the_table_and_writes_picture_and_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"day": pd.date_range("2020-01-01", periods=40), "level": noise()}).to_csv(
        tmp_path / "a.csv", index=False
    )
    picture, folder = tmp_path / "out.png", tmp_path / "deep" / "models"
    arguments = ["compare", str(tmp_path / "a.csv"), "--models", "ar,lds", "--horizons", "2,1", "--train", "30"]
    assert command.main([*arguments, "--plot", str(picture), "--save", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "10 observed test steps after 30 training steps" in out
    for name in ("ar ", "lds ", "random walk ", "iid "):
        assert any(line.startswith(name) for line in out.splitlines())
    assert "by BIC" in out
    assert all(line.startswith(("lds: ", "compiling", "fit s: ")) for line in err.splitlines())
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(folder / "table.csv", index_col=0)
    assert set(table.index) == {"ar", "lds", "random walk", "iid"}
    y = read_column(str(tmp_path / "a.csv"))
    for name in table.index:
        model = ps.load(folder / f"{name.replace(' ', '_')}.safetensors")
        again = model.filter(y).log_prob[30:].mean().item()
        assert again == pytest.approx(table.loc[name, "log_score"], rel=1e-12)


def test_the_seed_makes_runs_equal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write_csv(tmp_path, "y\n" + "\n".join(map(str, noise())))
    tables = []
    for _ in range(2):
        assert command.main(["compare", path, "--models", "hmm", "--seed", "3", "--save", str(tmp_path / "s")]) == 0
        tables.append(pd.read_csv(tmp_path / "s" / "table.csv").drop(columns="fit_seconds"))
    capsys.readouterr()
    pd.testing.assert_frame_equal(*tables)


def test_compiling_a_kernel_is_announced_once(capsys: pytest.CaptureFixture[str]) -> None:
    def fresh(module: str) -> None:
        def add(x: float) -> float:
            return x + 1

        add.__module__ = module
        numba.njit(add)(1.0)

    with command._told_of_compiling("a while") as compiling:
        fresh("elsewhere")
        assert capsys.readouterr().err == ""
        assert not compiling.told
        fresh("probseq.kernels.hmm")
        fresh("probseq.kernels.hmm")
        assert compiling.told
    assert capsys.readouterr().err == "compiling kernels once, a while ...\n"
    fresh("probseq.kernels.hmm")
    assert capsys.readouterr().err == ""


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    assert "compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nile", "--models", "ar,svm"], "unknown model 'svm'; there are ar, lds, hmm, gru"),
        (["nile", "--models", ","], "no model named"),
        (["nile", "--horizons", "1,x"], "positive integers"),
        (["nile", "--horizons", "0"], "positive integers"),
        (["nile", "--train", "1.5"], "a share between 0 and 1"),
        (["nile", "--train", "x"], "a share between 0 and 1"),
        (["nile", "--train", "100"], "at least one step on both sides"),
        (["nile", "--seed", "-1"], "argument --seed"),
        (["nile", "--column", "depth"], "has no column 'depth'; it has volume"),
        (["nile", "--plot", "out.xyz"], "--plot must end in one of"),
        (["nile", "--plot", "no/such/folder/out.png"], "there is no no/such/folder"),
        (["nile", "--save", __file__], "is a file"),
        (["nowhere.csv"], "there is no file nowhere.csv, nor a built-in series of that name (earthquakes, "),
        ([], "required: DATA"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(capsys, "compare", *arguments)


def test_an_unknown_command_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'compete'" in refused(capsys, "compete")


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("a,b\n1.5,2.5\n3.5,4.5\n", None, "several columns of numbers, choose one with --column: a, b"),
        ("a,b\n1.5,2.5\n3.5,4.5\n", "c", "no column 'c'; it has a, b"),
        ("a\nx\ny\n", None, "no column of numbers; its columns are a"),
        ("t,a,b\n2020-01-01,1,x\n2020-01-02,2,3\n", "b", "holds text such as 'x', not numbers"),
        ("t,a\n2020-01-02,1\n2020-01-01,2\n", None, "the dates in column 't' must increase"),
        ("", None, "is no CSV table"),
        ("a,b\n1,2\n3,4,5\n6,7,8,9\n", None, "is no CSV table"),
        ("a\n1\n1\n1\n1\n", None, "constant"),
        ("a\n1\n", None, "at least one step on both sides"),
    ],
)
def test_wrong_files_are_refused_in_one_line(
    text: str, column: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_csv(tmp_path, text)
    assert words in refused(capsys, "compare", path, *([] if column is None else ["--column", column]))


def test_a_missing_matplotlib_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "probseq[plot]"' in refused(capsys, "compare", "nile", "--plot", "out.png")


# ---- files


@pytest.mark.parametrize(
    ("text", "column", "index", "values"),
    [
        ("year,flow\n1871,5\n1872,\n1873,7\n", None, [1871, 1872, 1873], [5, np.nan, 7]),
        ("flow\n5\n6\n7\n", None, [0, 1, 2], [5, 6, 7]),
        ("5\n6.5\n7\n", None, [0, 1, 2], [5, 6.5, 7]),
        ("label,flow\nx,5\ny,6\n", None, ["x", "y"], [5, 6]),
        ("year,a,b\n1,5,8\n2,6,9\n", "b", [1, 2], [8, 9]),
        ("year,a\n1,5\n2,6\n", "year", [0, 1], [1, 2]),
        ("n,a\n4,5\n2,6\n", "a", [0, 1], [5, 6]),
        ("a,note\n4,x\n5,y\n", None, [0, 1], [4, 5]),
    ],
)
def test_columns_and_indexes_of_files(text: str, column: str | None, index: list, values: list, tmp_path: Path) -> None:
    y = read_column(write_csv(tmp_path, text), column)
    assert list(y.index) == index
    np.testing.assert_array_equal(y.to_numpy(), np.array(values, dtype=float))
    assert y.dtype == np.float64


def test_dates_become_a_date_index(tmp_path: Path) -> None:
    y = read_column(write_csv(tmp_path, "day,a\n2020-01-01,1\n2020-01-02,2\n"))
    assert isinstance(y.index, pd.DatetimeIndex)
    assert y.index[1] == pd.Timestamp("2020-01-02")


# ---- the default models


def test_the_order_is_the_one_with_the_smallest_bic() -> None:
    rng = np.random.default_rng(7)
    y = np.zeros(300)
    for t in range(2, 300):
        y[t] = 1.2 * y[t - 1] - 0.6 * y[t - 2] + rng.normal()
    windows = np.column_stack([y[MOST_LAGS - lag : 300 - lag] for lag in range(MOST_LAGS + 1)])
    expected = [AutoReg(y, order, hold_back=MOST_LAGS).fit().bic for order in range(1, MOST_LAGS + 1)]
    np.testing.assert_allclose([ar_bic(windows, order) for order in range(1, MOST_LAGS + 1)], expected, rtol=1e-10)
    assert ar_order(y) == 1 + np.argmin(expected) == 2
    assert ar_order(1e-200 * y) == ar_order(1e200 * y) == 2
    y[100:110] = np.nan
    assert ar_order(y) == 2


@pytest.mark.parametrize("y", [noise(7), noise(4), noise(1), np.full(50, 0.1), np.zeros(50), np.full(50, np.nan)])
def test_series_that_tell_little_have_few_lags(y: Any) -> None:
    assert ar_order(y) <= (2 if len(y) == 7 else 1)


def test_gaps_allow_few_lags() -> None:
    y = np.sin(np.arange(60.0))
    assert ar_order(y) == 2
    y[::3] = np.nan  # no two lags are ever seen together
    assert ar_order(y) == 1


def test_default_models_by_name() -> None:
    y = noise()
    kinds = {"ar": ps.AR, "lds": ps.LDS, "hmm": ps.HMM, "gru": ps.RNN}
    for name, kind in kinds.items():
        assert isinstance(default_model(name, y), kind)
    with pytest.raises(ValueError, match="unknown model 'svm'"):
        default_model("svm", y)


def test_report_writes_one_page_and_refuses_what_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path, "y\n" + "\n".join(map(str, noise())))
    page = tmp_path / "out.html"
    assert command.main(["compare", path, "--models", "ar", "--horizons", "1", "--report", str(page)]) == 0
    capsys.readouterr()
    assert "Comparison on data.csv" in page.read_text()
    assert "must end in .html" in refused(capsys, "compare", "nile", "--report", "out.png")
    assert "folder that exists" in refused(capsys, "compare", "nile", "--report", "no/such/out.html")
