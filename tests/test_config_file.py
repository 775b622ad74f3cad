"""Configurations of DeepSpeed in JSON and YAML files: found, read by places, mended, silenced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mpaudit.audit import add_ignore, check, fix
from mpaudit.cli import main
from mpaudit.config import Selection
from mpaudit.finding import Position
from mpaudit.output_format import CHECK_FORMATS
from mpaudit.render import formats
from mpaudit.source.text.tree_text import BrokenTextError, read_json, read_yaml

RULE = "deepspeed-config-conflict"
BOTH = '{\n  "train_batch_size": 8,\n  "bf16": {"enabled": true},\n  "fp16": {"enabled": true}\n}\n'
YAML = "zero_optimization: {stage: 2}\nbf16:\n  enabled: true\nfp16:\n  enabled: true  # half\n"


def places(path: Path, *more: Path) -> list[tuple[str, int, int, str]]:
    """Name of the file, row, column and rule of every finding."""
    return [
        (Path(f.span.filename).name, f.span.start.row, f.span.start.column, f.name)
        for f in check([path, *more]).findings
    ]


def messages(path: Path) -> list[str]:
    return [finding.message for finding in check([path]).findings]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def test_a_file_that_is_named_is_read_whatever_it_is_called(project: Path) -> None:
    path = project / "settings.json"
    path.write_text(BOTH)
    assert places(path) == [("settings.json", 4, 3, RULE)]
    end = check([path]).findings[0].span.end
    assert (end.row, end.column) == (4, 9)


@pytest.mark.parametrize("name", ["ds_config.json", "zero3.json", "my_deepspeed.yaml", "ds.yml"])
def test_a_file_in_a_folder_is_found_by_its_name(project: Path, name: str) -> None:
    (project / "conf").mkdir()
    (project / "conf" / name).write_text(YAML if name.endswith("ml") else BOTH)
    assert places(project) == [(name, 4, 1 if name.endswith("ml") else 3, RULE)]


def test_other_files_in_a_folder_are_let_be(project: Path) -> None:
    (project / "train.py").write_text("print('no DeepSpeed here')\n")
    (project / "package.json").write_text(BOTH)
    (project / "zero.json").write_text('{"name": "zero", "broken": ')
    assert places(project) == []


@pytest.mark.parametrize(
    "mention",
    [
        "deepspeed.initialize(model=None, config='conf/train.json')",
        "TrainingArguments('out', deepspeed='conf/train.json')",
        "argparse.ArgumentParser().add_argument('--deepspeed', default='conf/train.json')",
    ],
)
def test_a_file_that_a_script_names(project: Path, mention: str) -> None:
    (project / "conf").mkdir()
    (project / "conf" / "train.json").write_text(BOTH)
    script = project / "train.py"
    script.write_text(
        "import argparse\nimport deepspeed\nfrom transformers import TrainingArguments\n" + mention
    )
    assert places(script) == [("train.json", 4, 3, RULE)]
    assert places(project) == [("train.json", 4, 3, RULE)]
    assert places(script, project) == [("train.json", 4, 3, RULE)]


def test_a_file_outside_of_what_is_checked_is_not_edited(project: Path) -> None:
    config = project / "train.json"
    config.write_text(BOTH)
    script = project / "train.py"
    script.write_text("import deepspeed\ndeepspeed.initialize(model=None, config='train.json')\n")
    report, changed = fix([script], unsafe=True, write=True)
    assert config.read_text() == BOTH
    assert not changed
    assert [finding.fix for finding in report.findings] == [None]
    fix([project], unsafe=True, write=True)
    assert config.read_text() == BOTH.replace(
        '"fp16": {"enabled": true', '"fp16": {"enabled": false'
    )


def test_what_is_excluded_is_not_read_for_being_named(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.mpaudit]\nexclude = ['*.json']\n")
    (project / "ds_config.json").write_text(BOTH)
    script = project / "train.py"
    script.write_text("import deepspeed\nC = 'ds_config.json'\n")
    outcome = CliRunner().invoke(main, ["check", str(project), "--no-cache"])
    assert "ds_config.json" not in outcome.output


def test_a_repair_changes_one_word_and_needs_a_word(project: Path) -> None:
    path = project / "ds_config.json"
    rows = (
        b"\xef\xbb\xbf{\r\n",
        b'\t"fp16" :{ "enabled":true },// half\r\n',
        b'\t"bfloat16":{"enabled":true},}',
    )
    before = b"".join(rows)
    path.write_bytes(before)
    report, _ = fix([path], unsafe=False, write=True)
    assert len(report.findings) == 1
    report, _ = fix([path], unsafe=True, write=True)
    assert not report.findings
    assert path.read_bytes() == before.replace(b'"enabled":true }', b'"enabled":false }')


def test_yaml_is_repaired_and_silenced_by_comments(project: Path) -> None:
    path = project / "ds_config.yaml"
    path.write_text(YAML)
    fix([path], unsafe=True, write=True)
    assert path.read_text() == YAML.replace("true  # half", "false  # half")
    path.write_text(YAML)
    add_ignore([path], reason="for both kinds of node")
    assert f"fp16:  # mpaudit: ignore[{RULE}] for both kinds of node\n" in path.read_text()
    assert not check([path]).findings
    path.write_text(f"# mpaudit: file-ignore[{RULE}]\n{YAML}")
    assert not check([path]).findings
    path.write_text(f"steps: 3  # mpaudit: ignore[{RULE}]\n{YAML}")
    assert {f.name for f in check([path]).findings} == {RULE, "unused-suppression"}


def test_json_has_no_comments_that_silence(project: Path) -> None:
    path = project / "ds_config.json"
    path.write_text(f"// # mpaudit: file-ignore[{RULE}]\n{BOTH}")
    assert len(check([path]).findings) == 1
    report, silenced = add_ignore([path], reason="")
    assert (len(report.findings), silenced) == (1, 0)
    assert path.read_text().endswith(BOTH)


@pytest.mark.parametrize(
    "text",
    [
        '{"fp16": {"enabled": "auto"}, "bf16": {"enabled": "auto"}, "train_batch_size": "auto"}',
        '{"fp16": {"enabled": true}, "bf16": {"enabled": false}}',
        '{"fp16": {"enabled": true}, "bf16": {}}',
        '{"fp16": {"enabled": true}, "bf16": {"enabled": false}, "bfloat16": {"enabled": true}}',
        '{"fp16": {"enabled": "true"}, "bf16": {"enabled": true}}',
        '{"fp16": true, "bf16": true, "per_device_train_batch_size": 4}',
        '{"amp": {"enabled": true}, "fp16": {"enabled": true}}',
        '{"a": {"fp16": {"enabled": true}}, "b": {"bf16": {"enabled": true}}}',
        "{}",
        '{"list": [{"fp16": {"enabled": true}}], "text": "\\"bf16\\": {\\"enabled\\": true}"}',
    ],
)
def test_what_is_no_conflict_is_silent(project: Path, text: str) -> None:
    path = project / "ds_config.json"
    path.write_text(text)
    assert not check([path]).findings


@pytest.mark.parametrize(
    "text",
    [
        "fp16: true\nbf16: true\ntrain_batch_size: 4\n",
        "fp16:\n  enabled: auto\nbf16:\n  enabled: true\n",
        "base: &half\n  enabled: true\nfp16: *half\nbf16:\n  enabled: true\n",
        "fp16:\n  enabled: true\n---\nbf16:\n  enabled: true\n",
        "text: |\n  fp16:\n    enabled: true\nbf16:\n  enabled: true\n",
        "- fp16:\n    enabled: true\n- bf16:\n    enabled: true\n",
        "fp16:\n  # enabled: true\n  loss_scale: 0\nbf16: {enabled: true}\n",
        "fp16: {enabled: ${half}}\nbf16: {enabled: true}\n",
        "a:\n    b: 1\n  {{ more }}\n  c: 2\nfp16: {enabled: true}\nbf16: {enabled: true}\n",
    ],
)
def test_what_is_no_conflict_in_yaml_is_silent(project: Path, text: str) -> None:
    path = project / "ds_config.yaml"
    path.write_text(text)
    assert not check([path]).findings


def test_apex_and_optimizer_states(project: Path) -> None:
    path = project / "ds_config.json"
    path.write_text(
        '{"train_batch_size": 4,\n"amp": {"enabled": true},\n"zero_optimization": {"stage": 1}}'
    )
    assert places(path) == [("ds_config.json", 2, 1, RULE)]
    path.write_text('{"bf16": {"enabled": true,\n"bf16_optimizer_states": true}}')
    assert places(path) == [("ds_config.json", 2, 1, RULE)]
    path.write_text(
        '{"bf16": {"enabled": true, "bf16_optimizer_states": true,'
        ' "bf16_master_weights_and_grads": true}}'
    )
    assert places(path) == []


@pytest.mark.parametrize(
    ("content", "row", "said"),
    [
        (b'{"zero_optimization": {"stage": 2},\n "fp16": {', 2, "a key is expected here"),
        (b'{"zero_optimization": {"stage": 2}\n "fp16": {}}', 2, "`,` or `}` is expected here"),
        (b'{"train_batch_size": 8,\n"fp16": {},\n"fp16": {}}', 3, "the key 'fp16' is there twice"),
        (b'{"train_batch_size": 8, "fp16": maybe}', 1, "a value is expected here"),
        (b'{"train_batch_size": 8,\n"fp16": true}', 2, "`fp16` is no object"),
        (b'{"train_batch_size": 8, "fp16": {"enabled": [1]}}', 1, "neither true nor false"),
        (b'["zero_optimization"]', 1, "it is no JSON object"),
        (b'{"zero_optimization": {}} fp16', 1, "there is something behind the JSON object"),
        (b'{"zero_optimization": \xff}', 1, "it is not UTF-8"),
        (b'{"zero_optimization": 1}\0\0', 1, "it is not text"),
        (b'{"zero_optimization": ' + b'{"a": ' * 90 + b"1" + b"}" * 91, 1, "nested too deeply"),
        (b'{"zero_optimization": ' + b"[" * 9000, 1, "nested too deeply"),
        (b'{"zero_optimization": 1' + b" " * 1_000_001 + b"}", 1, "it has 1000025 bytes"),
        (b"", 1, "it is no JSON object"),
    ],
)
def test_bad_json_is_said_in_one_line(project: Path, content: bytes, row: int, said: str) -> None:
    path = project / "ds_config.json"
    path.write_bytes(content)
    (finding,) = check([path]).findings
    assert finding.name == "unparsable-source"
    assert finding.span.start.row == row
    assert said in finding.message
    assert finding.message.startswith("this cannot be read as a DeepSpeed configuration: ")
    assert "\n" not in finding.message


@pytest.mark.parametrize(
    ("text", "row", "said"),
    [
        ("zero_optimization:\n\tstage: 2\n", 2, "a tab cannot indent"),
        ("zero_optimization:\n    stage: 2\n  x: 3\n", 3, "the indentation fits no line above"),
        ("fp16:\n  enabled: true\nfp16:\n  enabled: false\n", 3, "the key 'fp16' is there twice"),
    ],
)
def test_bad_yaml_is_said_in_one_line(project: Path, text: str, row: int, said: str) -> None:
    path = project / "ds_config.yaml"
    path.write_text(text)
    (finding,) = check([path]).findings
    assert (finding.name, finding.span.start.row) == ("unparsable-source", row)
    assert said in finding.message


@pytest.mark.parametrize("asked", ["train.py", "."])
def test_what_a_script_hands_over_is_read_however_little_is_left_of_it(
    project: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.chdir(project)
    (project / "ds_config.json").write_text('{"fp16": {"enabled": true,')
    (project / "train.py").write_text(
        "import deepspeed\nfrom torch import nn\n\n"
        'deepspeed.initialize(model=nn.Linear(2, 2), config="ds_config.json")\n'
    )
    result = check([Path(asked)])
    (finding,) = result.findings
    assert (finding.name, finding.span.start) == ("unparsable-source", Position(1, 27))
    assert not result.warnings


def test_a_file_that_is_none_is_said_to_be_none(project: Path) -> None:
    path = project / "package.json"
    path.write_text('{"name": "x", "version": "1.0"}')
    report = check([path])
    assert not report.findings
    assert any("nothing of a DeepSpeed configuration" in each for each in report.warnings)


@pytest.mark.parametrize("name", ["ds_config.json", "ds_config.yaml"])
@pytest.mark.parametrize("form", sorted(CHECK_FORMATS))
def test_every_format_shows_it(project: Path, name: str, form: str) -> None:
    path = project / name
    path.write_text(BOTH if name.endswith(".json") else YAML)
    text = formats.rendered(check([path]), form, colour=False)
    assert name in text
    assert "MP613" in text or RULE in text
    if form == "json":
        (row,) = json.loads(text)
        assert row["location"] == {"row": 4, "column": 3 if name.endswith(".json") else 1}
        assert row["fix"]["edits"][0]["content"] == "false"


def test_standard_input_is_read_as_its_name_says(project: Path) -> None:
    outcome = CliRunner().invoke(
        main, ["check", "-", "--stdin-filename", "ds_config.json"], input=BOTH
    )
    assert outcome.exit_code == 1
    assert "ds_config.json:4:3" in outcome.output


def test_a_changed_configuration_changes_what_is_said_of_a_script(project: Path) -> None:
    config, script = project / "ds.json", project / "train.py"
    script.write_text(
        "import deepspeed\nfrom torch import nn\n"
        "engine, _, _, _ = deepspeed.initialize(model=nn.Linear(2, 2), config='ds.json')\n"
        "for x in ():\n    loss = engine(x).sum()\n    loss.backward()\n    engine.step()\n"
    )
    cache = project / "cache"
    for precision, found in (("bf16", []), ("fp16", ["deepspeed-raw-backward"]), ("bf16", [])):
        config.write_text(
            json.dumps({precision: {"enabled": True}, "zero_optimization": {"stage": 1}})
        )
        findings = check([script], Selection(), cache=cache).findings
        assert [finding.name for finding in findings] == found


def test_arguments_that_disagree_with_a_file(project: Path) -> None:
    (project / "ds.json").write_text('{"bf16": {"enabled": true}, "train_batch_size": "auto"}')
    script = project / "train.py"
    head = "from transformers import TrainingArguments\n"
    for given, found in (("fp16=True", 1), ("bf16=True", 0), ("fp16=flag()", 0), ("lr=1", 0)):
        script.write_text(f"{head}TrainingArguments('out', {given}, deepspeed='ds.json')\n")
        assert len(check([script]).findings) == found
    assert not check([project / "ds.json"]).findings


def test_a_template_is_read_as_far_as_it_says_something(project: Path) -> None:
    path = project / "ds_config_TEMPLATE.json"
    for place in ("BATCH_SIZE", "CL_1st_MIN", "LR", "{{ batch }}", "${BATCH}", "<batch>"):
        path.write_text(f'{{"train_batch_size": {place},\n"fp16": {{"enabled": {place}}}}}')
        assert places(path) == []
        path.write_text(
            f'{{"train_batch_size": {place},\n"fp16": {{"enabled": true}}, "bf16": {{"enabled": true}}}}'
        )
        assert places(path) == [("ds_config_TEMPLATE.json", 2, 1, RULE)]
    for word in ("None", "True", "maybe", "TRUE", "FALSE", "NULL", "NONE"):
        path.write_text(f'{{"train_batch_size": 8, "fp16": {word}}}')
        assert [name for *_, name in places(path)] == ["unparsable-source"]


def test_places_of_keys_and_values() -> None:
    text = '{"a": {"b": [1, {"c": "}"}], "d": -1.5e3}} // end'
    tree = read_json(text)
    entry = tree.get("a", "d")
    assert entry is not None
    assert (text[slice(*entry.key)], text[slice(*entry.place)], entry.value) == (
        '"d"',
        "-1.5e3",
        -1500,
    )
    text = "a:\n  'b c': 1  # x\n  d: {e: \"#no\", f: on}\ng: http://x#y\n"
    tree = read_yaml(text)
    inner = tree.get("a", "d", "f")
    assert inner is not None and inner.value is True and text[slice(*inner.place)] == "on"
    last = tree.get("g")
    assert last is not None and last.value == "http://x#y"
    with pytest.raises(BrokenTextError):
        read_json("{")
