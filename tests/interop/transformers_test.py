"""The same comparisons against transformers as it is installed: other weights and lengths than the fixtures'."""

import re

import numpy as np
import pytest
from hf_models import RECIPES, make_model, save_model
from hf_models import logits_of as transformers_logits
from imported import FULL, logits_of, params_in

from famjax.interop import huggingface
from famjax.interop.exporting import export_checkpoint
from famjax.interop.importing import import_checkpoint
from tolerances import Tolerance, assert_close

REASON = "is not installed: the live comparison with transformers runs where torch and transformers are (tests/interop)"
torch = pytest.importorskip("torch", reason=f"torch {REASON}")
transformers = pytest.importorskip("transformers", reason=f"transformers {REASON}")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
TRANSFORMERS = Tolerance(0.0, 2e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_both_ways(name, tmp_path):
    """Guards against a version of transformers that reads or writes something else than the fixtures' one."""
    model = make_model(name, seed=99)
    save_model(name, model, tmp_path / "hf")
    import_checkpoint(tmp_path / "hf", tmp_path / "famjax", FULL)
    tokens = np.random.default_rng(7).integers(0, 40, (1, 30))
    expected = transformers_logits(model, tokens)
    config, params = params_in(tmp_path / "famjax")
    assert_close(logits_of(config, params, tokens.astype(np.int32)), expected, TRANSFORMERS)
    export_checkpoint(str(tmp_path / "famjax"), tmp_path / "back", shard_bytes=9000)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "back", dtype=torch.float32, attn_implementation="eager"
    )
    assert type(loaded) is type(model)
    np.testing.assert_array_equal(transformers_logits(loaded.eval(), tokens), expected)


def test_verify_reports(tmp_path, capsys):
    """Guards against a report that compares a model with itself, or that finds no difference where FAM is inserted."""
    model = make_model("qwen3", seed=5)
    save_model("qwen3", model, tmp_path / "hf")
    flags = [f"--source={tmp_path / 'hf'}", f"--output={tmp_path / 'out'}", "--block_size=8", "--num_segments=1"]
    assert huggingface.main(["import", *flags]) == 0
    flags = [f"--source={tmp_path / 'hf'}", f"--checkpoint={tmp_path / 'out'}", "--length=30", "--fam_length=4"]
    capsys.readouterr()
    assert huggingface.main(["verify", *flags]) == 0
    printed = capsys.readouterr().out
    assert "logits in float32, 30 random tokens.\nThe import is transformers' model" in printed
    largest = {
        title: float(figure)
        for title, figure in re.findall(r"^  (\S.*?)  +\d+-\d+ +([\d.e-]+) ", printed, re.MULTILINE)
    }
    fam = "FAM of 4 untrained rows"
    assert list(largest) == [
        "famjax, full attention",
        *("BSWA, within the window", "BSWA, behind it", f"{fam}, within the window", f"{fam}, behind it"),
    ]
    assert largest["famjax, full attention"] < 2e-4
    assert largest["BSWA, within the window"] < 1e-5
    assert min(list(largest.values())[2:]) > 1e-3
    assert re.search(r"famjax, full attention +0-29 .* 100.00%", printed)
