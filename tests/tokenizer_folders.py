"""Tokenizers and their files, small, for tests of vocabularies."""

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from seme.alignment.vocabulary import Vocabulary, read_vocabulary

TEXT = ["the cat sat on the mat, and the dog — a naïve one — sat on the cat in the hut"] * 20
SPECIAL = "<|end|>"


def trained(model, trainer, pre_tokenizer, decoder):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def byte_level_bpe(size=330):
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(models.BPE(), trainer, level, decoders.ByteLevel())


def metaspace_bpe():
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=[SPECIAL], show_progress=False)
    space = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return trained(models.BPE(byte_fallback=True), trainer, *space)


def metaspace_unigram():
    # the trainer's result varies from run to run: the pieces of the other, in another order
    pieces = sorted(metaspace_bpe().get_vocab())
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces]))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([SPECIAL])
    return tokenizer


def stored(tokenizer, folder):
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return read_vocabulary(folder)


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def plain(folder, vocab, added=(), **model):
    tokenizer = {"added_tokens": list(added), "model": {"type": "WordLevel", "vocab": vocab}}
    tokenizer["model"] |= model
    return write(folder, tokenizer__json=tokenizer)


def vocabulary(*texts, **specials):
    ids = {text.encode(): (token_id,) for token_id, text in enumerate(texts)}
    return Vocabulary(ids=ids, specials=specials)
