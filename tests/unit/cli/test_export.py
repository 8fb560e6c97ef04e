"""What `eztinker export` writes and says."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from eztinker.checkpoints.peft import WEIGHTS, peft_parts
from eztinker.cli.export import Form, export, write_peft
from eztinker.errors import InvalidInput
from tests.oracles import load_decoder
from tests.unit.engine.engine_helpers import TinyModel, new_run


@pytest.mark.parametrize("tie", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("train_unembed", [False, True])
def test_an_adapter_that_few_programs_apply_whole_is_written_with_a_note(
    tiny_model: TinyModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], tie: bool, train_unembed: bool
):
    run = new_run(load_decoder(tiny_model("llama", tie=tie)), rank=2, train_unembed=train_unembed)
    capsys.readouterr()
    parts = peft_parts(run.adapter.named_arrays(), run.adapter.lora, "tiny", head_is_tied=tie)
    write_peft(parts, tmp_path / "adapter")
    assert not any("unembed_tokens" in name for name in load_file(tmp_path / "adapter" / WEIGHTS))
    note = capsys.readouterr().err
    assert ("use: eztinker export merged" in note) is (tie and train_unembed)


@pytest.mark.parametrize("form", Form)
def test_a_folder_below_a_file_is_refused_before_a_server_is_asked(tmp_path: Path, form: Form):
    file = tmp_path / "file"
    file.touch()
    for directory in (file / "adapter", file / "deep" / "adapter"):
        with pytest.raises(InvalidInput, match=f"^{directory} cannot be made, because {file} is a file; name another"):
            export(form, "tinker://run/weights/a", directory)
