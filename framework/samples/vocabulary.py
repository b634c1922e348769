"""A vocabulary of subwords that both languages share: byte-pair encoding (Sennrich et al., ACL 2016) by SentencePiece.

Assumptions: a vocabulary is one file, SentencePiece's own model; the same sentences in the same order give the same
bytes. Its first tokens are the five below, in every vocabulary. SentencePiece's usual normalisation (NFKC) is in
force: "…" becomes "...", and spaces of any kind and number one space.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from framework.errors import InputError, StoreError
from framework.store.columns import REMEDY

PAD, BOS, EOS, UNKNOWN, MASK = range(5)
"""No token at all, the beginning and the end of a sentence, what no token spells, and a token that is to be guessed."""


_USUAL_BYTES = 4192  # of a sentence: SentencePiece learns from no longer one, and says nothing, unless it is told to


class Vocabulary:
    """Text to tokens, and tokens to text."""

    def __init__(self, model: bytes) -> None:
        """Of SentencePiece's model file, as `learn` gives it. Raises StoreError for bytes that are none."""
        from sentencepiece import SentencePieceProcessor  # a library of C++: where it is needed alone

        self.model = model
        try:
            self._processor = SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise StoreError(f"a vocabulary of {len(model)} bytes cannot be read ({_first_line(error)}).") from error

    @classmethod
    def learn(cls, sentences: Iterable[str], size: int) -> "Vocabulary":
        """A vocabulary of `size` tokens: characters, and the most frequent pairs of tokens, joined again and again.

        All sentences count, however long. Raises InputError where they have too few characters, or more, for a
        vocabulary of this size."""
        from sentencepiece import SentencePieceTrainer

        written, held = io.BytesIO(), list(sentences)
        longest = max((len(sentence.encode()) for sentence in held), default=0)
        # The setting is a part of the model's bytes, which stay as they are where it changes nothing.
        limit: dict[str, Any] = {"max_sentence_length": longest} if longest > _USUAL_BYTES else {}
        try:
            SentencePieceTrainer.train(
                sentence_iterator=iter(held),
                model_writer=written,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                num_threads=1,
                pad_id=PAD,
                bos_id=BOS,
                eos_id=EOS,
                unk_id=UNKNOWN,
                control_symbols=["<mask>"],  # none that a text could spell
                minloglevel=2,
                **limit,
            )
        except RuntimeError as error:
            raise InputError(f"no vocabulary of {size} tokens can be made of this text: {_reason(error)}.") from error
        return cls(written.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """The one in a file. Raises StoreError for a file that is missing or none."""
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise StoreError(f"'{path}' cannot be read: {error.strerror or error}. {REMEDY}") from error
        except StoreError as error:
            raise StoreError(f"'{path}' is no vocabulary, or was altered. {REMEDY}") from error

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    @property
    def digest(self) -> str:
        """SHA-256 of the model, 64 hex digits."""
        return hashlib.sha256(self.model).hexdigest()

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """The tokens of every sentence, EOS at the end."""
        tokens: list[list[int]] = self._processor.encode(list(sentences), num_threads=1)
        return [[*sentence, EOS] for sentence in tokens]

    def decode(self, sentences: Sequence[Sequence[int]]) -> list[str]:
        """The text of every sentence of tokens; PAD, BOS, EOS and MASK spell nothing."""
        texts: list[str] = self._processor.decode([list(sentence) for sentence in sentences], num_threads=1)
        return texts

    def piece(self, token: int) -> str:
        """How a token is written: `_` in front of one that begins a word is U+2581."""
        return str(self._processor.id_to_piece(token))


def _reason(error: BaseException) -> str:
    """Why a vocabulary cannot be learned. Of one that is too small the library says options that nobody has here."""
    told = _first_line(error)
    needed = re.search(r"required_chars\. \d+ vs (\d+)", told)
    if needed:
        return f"its characters and marks alone are {needed[1]}; give --vocabulary more"
    return f"there are {MASK + 1} marks alone; give --vocabulary more" if "insert_id" in told else told


def _first_line(error: BaseException) -> str:
    """What SentencePiece says, without the place in its source."""
    return str(error).strip().partition("\n")[0].rpartition("] ")[2].rstrip(".")
