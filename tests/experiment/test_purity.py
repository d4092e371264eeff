"""Parsing is pure and quick: it must not drag torch, Ray or numpy in."""

import subprocess
import sys


def test_loading_an_experiment_imports_no_heavy_library(tmp_path):
    (tmp_path / "e.yaml").write_text("data: {source: digits}\nteacher: {model: m, weights: w}\n")
    code = (
        "import sys\n"
        "from kdray.experiment import digest_of, load_experiment, to_yaml\n"
        "e = load_experiment(sys.argv[1])\n"
        "to_yaml(e), digest_of(e)\n"
        "print([m for m in ('torch', 'ray', 'numpy', 'pyarrow', 'pandas') if m in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "e.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
