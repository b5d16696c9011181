"""Data sets read by the real library `datasets`, from folders in its formats, streamed."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from dynamoe_search.data import TextData, describe, find_data, hugging_face, load_data, load_test
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from tests.data.text_files import sentence, write_jsonl


def hf(folder: Path, **more: object) -> DataSection:
    known = {"name": "hf", "repo": str(folder), "max_documents": 20, "sequence_length": 16}
    return DataSection.model_validate(known | more)


def load(section: DataSection) -> TextData:
    data = load_data(section)
    assert isinstance(data, TextData)
    return data


def spools() -> set[Path]:
    return set(hugging_face.cache_folder().glob("documents/*/documents.jsonl"))


def test_formats_and_configurations_give_the_same_documents(tmp_path: Path) -> None:
    rows = [{"text": sentence(number)} for number in range(30)]
    (tmp_path / "parquet").mkdir()
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    write_jsonl(tmp_path / "jsonl" / "train.jsonl", 30)
    write_jsonl(tmp_path / "subset" / "one" / "train.jsonl", 30)
    write_jsonl(tmp_path / "subset" / "two" / "train.jsonl", 5)
    (tmp_path / "subset" / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: one/*.jsonl\n"
        "- config_name: two\n  data_files: two/*.jsonl\n---\n"
    )
    found = [
        load(hf(tmp_path / "parquet")),
        load(hf(tmp_path / "jsonl")),
        load(hf(tmp_path / "subset", subset="one")),
    ]
    assert len({data.data_hash for data in found}) == 1
    text = found[0].tokenizer.decode(found[0].train.x.reshape(-1).tolist())
    assert "Document " in text


def test_second_reading_needs_neither_network_nor_library(tmp_path: Path) -> None:
    section = hf(write_jsonl(tmp_path / "set" / "train.jsonl", 30).parent)
    assert find_data(section) is None
    guess = describe(section)
    data = load(section)
    assert find_data(section) == data.source
    assert guess.num_classes == describe(section).num_classes
    script = (
        "import sys; sys.modules['datasets'] = None\n"
        "from dynamoe_search.data import load_data\n"
        "from dynamoe_search.specs.sections import DataSection\n"
        "print(load_data(DataSection.model_validate_json(sys.argv[1])).data_hash)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, section.model_dump_json()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == data.data_hash


def test_damaged_documents_are_streamed_again(tmp_path: Path) -> None:
    section = hf(write_jsonl(tmp_path / "set" / "train.jsonl", 30).parent)
    known = spools()
    before = load(section)
    (spool,) = spools() - known
    spool.write_bytes(spool.read_bytes().replace(b"Document", b"document"))
    assert load(section).data_hash == before.data_hash
    (spool.parent / "manifest.json").write_text("{")
    assert load(section).data_hash == before.data_hash
    spool.unlink()
    with pytest.raises(DataError, match=r"was not found in .*; set data.download = true"):
        load(section.model_copy(update={"download": False}))


@pytest.mark.parametrize("change", [{"max_documents": 7}, {"max_tokens": 7 * 300}], ids=str)
def test_streaming_ends_at_the_limit(tmp_path: Path, change: dict[str, int]) -> None:
    folder = write_jsonl(tmp_path / "set" / "train.jsonl", 300).parent
    section = hf(folder, **({"max_documents": None} | change))
    known = spools()
    load(section)
    (spool,) = spools() - known
    texts = [json.loads(line)["text"] for line in spool.read_text().splitlines()]
    assert texts == [sentence(number) for number in range(len(texts))]
    if "max_documents" in change:
        assert len(texts) == 7
    else:
        lengths = [1 + len(text.encode()) for text in texts]
        assert sum(lengths[:-1]) < 2100 <= sum(lengths)


def test_test_part_comes_from_the_same_documents(tmp_path: Path) -> None:
    section = hf(write_jsonl(tmp_path / "set" / "train.jsonl", 30).parent)
    test = load_test(section)
    assert len(test.tokens) > 0
    assert test.tokens.shape[1] == 17


def refused(section: DataSection) -> str:
    with pytest.raises(DataError) as caught:
        load_data(section)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    folder = write_jsonl(tmp_path / "set" / "train.jsonl", 30).parent
    known = spools()
    assert "document 1 has no field 'body'; it has text, id" in refused(hf(folder, field="body"))
    assert "field 'id' must be text, got int" in refused(hf(folder, field="id"))
    assert "cannot be read from Hugging Face" in refused(hf(folder, subset="none"))
    assert "cannot be read from Hugging Face" in refused(hf(tmp_path / "none"))
    (folder / "train.jsonl").write_text("no JSON at all")
    assert "cannot be read from Hugging Face" in refused(hf(folder))
    (tmp_path / "empty").mkdir()
    assert "cannot be read from Hugging Face" in refused(hf(tmp_path / "empty"))
    assert spools() == known


def test_document_longer_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hugging_face, "MAX_RECORD_BYTES", 100)
    folder = write_jsonl(tmp_path / "set" / "train.jsonl", 30).parent
    assert "document 1 is longer than" in refused(hf(folder))


def test_published_name_is_the_repository_of_its_authors() -> None:
    assert hugging_face.source_of(DataSection(name="recycling-the-web")).endswith(
        "facebook/recycling_the_web"
    )


def test_lines_about_attempts_are_kept_back_also_if_the_library_was_not_loaded_before() -> None:
    code = (
        "import logging, tokenizers\n"
        "from dynamoe_search.data.language_extra import without_retry_messages\n"
        "with without_retry_messages():\n"
        "    import huggingface_hub.file_download\n"
        "    print(logging.getLogger('huggingface_hub').level)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(logging.ERROR)]
