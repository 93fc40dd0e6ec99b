"""The embedded family: one tokenizer and small Llama models, trained here on arith from scratch.

Shape legend: B documents of a batch, L positions.

It imports nothing that changes for other reasons, so only its parameters and its code make the committed
checkpoints stale.
"""

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fsgen.config.schema import CurriculumConfig, FinetuneConfig, PretrainConfig, Settings
from fsgen.errors import UserError
from fsgen.execution import console
from fsgen.tasks.arith_problems import LARGEST, training_problems, write_answer

FOLDER = Path("data/embedded")
CONTEXT = 512
IGNORED = -100  # label of positions that bear no loss
STYLES = ("worked", "terse", "wrong")
BUCKET = 16  # batches that are sorted by length together


def train(settings: Settings, name: str) -> None:
    """Train the base model `name` of params.yaml; writes data/embedded/<name>/."""
    member = settings.embedded_model(name)
    if settings.embedded_curriculum is None:
        raise UserError(
            "params.yaml lacks 'embedded_curriculum', the shares of answer styles to train on; add it."
        )
    torch.manual_seed(member.seed)
    tokenizer = make_tokenizer()
    network = make_network(member, tokenizer)
    loss = fit(network, tokenizer, member, settings.embedded_curriculum, name)
    _save(network, tokenizer, name, loss)


def tune(settings: Settings, name: str) -> None:
    """Fine-tune a base model on clean worked steps; writes data/embedded/<name>/."""
    tuned = settings.embedded_finetune(name)
    torch.manual_seed(tuned.seed)
    network = LlamaForCausalLM.from_pretrained(FOLDER / tuned.base, dtype=torch.float32)
    tokenizer = make_tokenizer()
    loss = fit(network, tokenizer, tuned, CurriculumConfig(worked=1.0, terse=0.0, wrong=0.0), name)
    _save(network, tokenizer, name, loss)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words and single digits; a digit that begins a number is another token than one that goes on."""
    core = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"▁?[0-9]|▁?[^▁0-9]+"), "isolated"),
        ]
    )
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    chance = random.Random(0)
    texts = (" ".join([q, write_answer(s, a)]) for q, s, a in training_problems(chance, 3000))
    pieces = {piece for text in texts for piece, _ in core.pre_tokenizer.pre_tokenize_str(text)}
    pieces |= {start + digit for start in ("", "▁") for digit in "0123456789"}
    words = ["<pad>", "<end>", "<unk>", *sorted(pieces)]
    core.model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>"
    )


def make_network(member: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama of the member's sizes, float32, embeddings tied to the head."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=member.hidden,
        intermediate_size=member.intermediate,
        num_hidden_layers=member.layers,
        num_attention_heads=member.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def fit(
    network: LlamaForCausalLM,
    tokenizer,
    recipe: PretrainConfig | FinetuneConfig,
    curriculum: CurriculumConfig,
    label: str,
) -> float:
    """AdamW with a linear warm-up and a cosine descent; the loss is on answers alone.

    Returns the mean loss of the last tenth of the steps, nats a token.
    """
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=max(1, recipe.steps // 20))
    descent = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps, recipe.learning_rate / 50)
    batches = make_batches(tokenizer, recipe, curriculum)
    losses = []
    network.train()
    with console.progress(recipe.steps, "steps", f"training {label}") as bar:
        for ids_BL, labels_BL in itertools.islice(batches, recipe.steps):
            loss = network(input_ids=ids_BL, labels=labels_BL).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            warmup.step()
            descent.step()
            losses.append(loss.item())
            bar.advance(1, tokens=ids_BL.numel())
    last = losses[-max(1, recipe.steps // 10) :]
    return sum(last) / len(last)


def make_batches(
    tokenizer, recipe: PretrainConfig | FinetuneConfig, curriculum: CurriculumConfig
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels [B, L] without end; documents of like length share a batch."""
    chance = random.Random(recipe.seed)
    while True:
        documents = make_documents(chance, curriculum, recipe.batch * BUCKET)
        sides = [tokenizer([d[i] for d in documents], add_special_tokens=False)["input_ids"] for i in (0, 1)]
        end = [tokenizer.eos_token_id]
        rows = sorted(zip(*sides, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        batches = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        for batch in chance.sample(batches, len(batches)):
            width = max(len(question) + len(answer) for question, answer in batch) + 1
            ids = [_fill(q + a + end, tokenizer.pad_token_id, width) for q, a in batch]
            labels = [_fill([IGNORED] * len(q) + a + end, IGNORED, width) for q, a in batch]
            yield torch.tensor(ids), torch.tensor(labels)


def _fill(ids: list[int], value: int, width: int) -> list[int]:
    return ids + [value] * (width - len(ids))


def make_documents(chance: random.Random, curriculum: CurriculumConfig, count: int) -> list[tuple[str, str]]:
    """Questions with answers in the curriculum's mixture of styles."""
    shares = [getattr(curriculum, style) for style in STYLES]
    styles = chance.choices(STYLES, weights=shares, k=count)
    problems = training_problems(chance, count)
    drawn = zip(styles, problems, strict=True)
    return [(question, _answer(chance, style, steps, a)) for style, (question, steps, a) in drawn]


def _answer(chance: random.Random, style: str, steps: list[str], answer: int) -> str:
    if style == "terse":
        return f"#### {answer}"
    if style == "wrong":  # the last step slips, and the answer with it
        slip = chance.choice([d for d in (-100, -10, -1, 1, 10, 100) if 0 <= answer + d <= LARGEST])
        worked, _, _ = steps[-1].rpartition(" ")
        return write_answer([*steps[:-1], f"{worked} {answer + slip}"], answer + slip)
    return write_answer(steps, answer)


def _save(network: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, name: str, loss: float) -> None:
    """The checkpoint folder appears whole or not at all."""
    out, part = FOLDER / name, FOLDER / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    network.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    network.save_pretrained(part)
    tokenizer.save_pretrained(part)
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)
    count = sum(weights.numel() for weights in network.parameters())
    console.done(
        f"{out}: {count:,} parameters, vocabulary of {len(tokenizer)}, {loss:.3f} nats an answer token"
    )
