"""Small texts and vocabularies in their real file formats."""

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dynamoe_search.specs.sections import DataSection

WORDS = ("the", "expert", "router", "token", "layer", "opens", "closes", "café", "漢字", "of", "🙂")


def sentence(number: int, words: int = 60) -> str:
    """Gives text that no other number gives."""
    drawn = random.Random(number).choices(WORDS, k=words)
    return f"Document {number}. " + " ".join(drawn) + ".\n"


def write_texts(folder: Path, count: int = 12) -> Path:
    """Writes one document a file, some of them below the folder, and files that are not to be read."""
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for number in range(count):
        suffix = ".md" if number % 3 else ".txt"
        place = folder / "below" if number % 2 else folder
        (place / f"{number:02}{suffix}").write_text(sentence(number), encoding="utf-8")
    (folder / ".hidden" / "no.txt").write_text("never read")
    (folder / "no.csv").write_text("never,read")
    return folder


def write_jsonl(path: Path, count: int = 12, field: str = "text") -> Path:
    """Writes one document a line, with blank lines between some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({field: sentence(number), "id": number}) for number in range(count)]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_gpt2(folder: Path, vocab_size: int = 300) -> Path:
    """Writes a vocabulary in the two files of GPT-2's release, its last entry the end of text."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator([sentence(number) for number in range(20)], trainer)
    vocabulary, merges = (Path(path) for path in engine.model.save(str(folder)))
    entries = json.loads(vocabulary.read_text()) | {"<|endoftext|>": vocab_size - 1}
    (folder / "encoder.json").write_text(json.dumps(entries))
    merges.rename(folder / "vocab.bpe")
    vocabulary.unlink()
    return folder


def text_section(kind: str, folder: Path) -> DataSection:
    """Writes a text and gives the section that reads it."""
    known = {"name": "text", "sequence_length": 16}
    if kind == "docs":
        return DataSection(name="docs")
    if kind == "file":
        path = folder / "long.txt"
        path.write_text("\n\n".join(map(sentence, range(120))), encoding="utf-8")
        return DataSection(**known, path=str(path))
    if kind == "jsonl":
        path = write_jsonl(folder / "own.jsonl", field="body")
        return DataSection(**known, path=str(path), field="body")
    if kind == "hf":
        repo = write_jsonl(folder / "set" / "train.jsonl").parent
        return DataSection(name="hf", repo=str(repo), max_documents=11, sequence_length=16)
    path = write_texts(folder / "texts")
    more = {
        "folder": {},
        "gpt2": {"tokenizer": "gpt2", "tokenizer_path": str(folder / "gpt2")},
        "bpe": {"tokenizer": "bpe", "vocab_size": 290},
    }
    if kind == "gpt2":
        write_gpt2(folder / "gpt2")
    return DataSection(**known, path=str(path), **more[kind])


KINDS = ("docs", "file", "jsonl", "hf", "folder", "gpt2", "bpe")
