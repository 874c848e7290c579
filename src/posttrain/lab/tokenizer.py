"""The lab's tokenizer: byte-fallback BPE in the form that llama.cpp reads, made from the corpus.

No prefix space, single digits, and no token that spans a space after its first character, so that a word is
one token, or two of them: at the start of a line, and after a space. It is the same for every world, since
all of them are made of the same words.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from posttrain.chat.sentencepiece_file import SENTENCEPIECE_FILE, build_sentencepiece_model
from posttrain.core.durable import write_bytes, write_json
from posttrain.core.seeds import derive_seed
from posttrain.lab.corpus import generate_documents
from posttrain.lab.tasks import SKILLS, draw_question
from posttrain.lab.world import WORLD_SEED, build_world

UNKNOWN, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<pad>"
TOKEN_IDS = {UNKNOWN: 0, BOS: 1, EOS: 2, PAD: 259}
VOCABULARY_SIZE = 1536
CONTEXT_TOKENS = 512
_SPACE = "\u2581"
_NUM_DOCUMENTS = 12_000
_PRINTABLE = [chr(code) for code in range(33, 127)] + ["\n", _SPACE]
_PIECES = rf"{_SPACE}?[A-Za-z]+|[0-9]|\n|{_SPACE}?[^A-Za-z0-9\n{_SPACE}]+|{_SPACE}+"


def _generate_texts() -> Iterator[str]:
    """Yield the corpus, and questions with their replies as the plain chat template writes them."""
    world = build_world()
    yield from generate_documents(world, "train", _NUM_DOCUMENTS, WORLD_SEED)
    generator = random.Random(derive_seed(WORLD_SEED, "lab", "tokenizer"))
    for _ in range(_NUM_DOCUMENTS // 4):
        question = draw_question(SKILLS, world, "train", generator)
        if question.tools:
            yield "Tools:\n" + "\n".join(json.dumps(tool) for tool in question.tools)
            yield 'Call one by <tool_call>{"name": ..., "arguments": {...}}</tool_call>'
        yield f"User:\n{question.prompt}\nAssistant:\n{question.right.words}\nAnswer: {question.right.answer}\nTool:\n"


def _learn_pieces(texts: Iterable[str], size: int) -> list[str]:
    """Return the learned pieces, most useful first: characters, then merged ones in order of merging."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", _SPACE)
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=_PRINTABLE, show_progress=False, min_frequency=2)
    learner.train_from_iterator(texts, trainer)
    vocabulary = learner.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _list_merges(pieces: list[str]) -> list[tuple[str, str]]:
    """Return every pair of pieces that joins to a piece, by the rank of what they make.

    These are the merges of SentencePiece's rule, in which a piece's rank is its score, so that tools
    which know the pieces and their order alone cut a text into the same tokens.
    """
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges


def save_tokenizer(folder: Path) -> None:
    """Write the tokenizer's three files into a folder, the same bytes on every machine.

    Raises:
        StorageError: The folder cannot be written.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    first = [UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), PAD]
    pieces = _learn_pieces(_generate_texts(), VOCABULARY_SIZE - len(first))
    vocabulary = {token: index for index, token in enumerate([*first, *pieces])}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=_list_merges(pieces), unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (UNKNOWN, BOS, EOS, PAD)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    scored = build_sentencepiece_model(json.loads(tokenizer.to_str()))
    assert scored is not None  # by how the merges are listed
    write_bytes(folder / SENTENCEPIECE_FILE, scored)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": CONTEXT_TOKENS,
            "unk_token": UNKNOWN,
            "bos_token": BOS,
            "eos_token": EOS,
            "pad_token": PAD,
        },
    )
