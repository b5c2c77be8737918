"""Two real tokenizers cut one text: what is mapped is exact, what is not is refused."""

import copy
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast

from sdk.build.teachers import alignment
from sdk.build.teachers.alignment import Aligner, chunk_log_likelihoods, likelihood_matching, teacher_scores
from sdk.build.teachers.protocol import Depth, TeacherFacts
from sdk.build.teachers.token_bytes import bytes_of, described
from sdk.build.teachers.token_map import exact_map, folding_by_bytes
from sdk.build.teachers.white_box import WhiteBox
from sdk.build.vocabulary import count_tokens, trim_tokenizer
from sdk.errors import VocabularyError
from tests.tiny import SENTENCES, VOCABULARY, tiny_model, tiny_tokenizer

TEXTS = (*SENTENCES, "naïve 🙂 日本 12", " two  spaces\n\n\tand tabs")
FACTS = TeacherFacts(name="tiny", depth=Depth.WEIGHTS, licence="mit", origin="tiny")


def pieces_tokenizer(size: int = 300) -> PreTrainedTokenizerFast:
    """SentencePiece's kind, as Gemma has it: spaces as ▁, unknown characters as bytes."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    controls = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=controls + [f"<0x{byte:02X}>" for byte in range(256)],
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES, trainer)
    whole = json.loads(backend.to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] in controls]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(whole)), bos_token="<bos>")


def trimmed() -> tuple[PreTrainedTokenizerFast, torch.Tensor]:
    made = trim_tokenizer(tiny_tokenizer(), count_tokens(tiny_tokenizer(), SENTENCES[:2]), size=290)
    return made.tokenizer, made.kept


def test_a_trimmed_vocabulary_maps_exactly() -> None:
    student, kept = trimmed()
    found = exact_map(student, tiny_tokenizer())
    assert torch.equal(found.teacher_ids, kept)
    for text in TEXTS:
        ids = torch.tensor(student(text).input_ids)
        assert tiny_tokenizer().decode(found.to_teacher(ids)) == text


def test_the_same_vocabulary_maps_to_itself() -> None:
    found = exact_map(tiny_tokenizer(), tiny_tokenizer())
    logits = torch.randn(2, 3, VOCABULARY, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.teacher_ids, torch.arange(VOCABULARY))
    assert torch.allclose(found.folded(logits), logits.log_softmax(-1), atol=1e-5)


def test_renormalised_forgets_removed_tokens_and_folded_gives_them_to_their_first_piece() -> None:
    student, kept = trimmed()
    teacher = tiny_tokenizer()
    found = exact_map(student, teacher)
    logits = torch.randn(4, VOCABULARY, generator=torch.Generator().manual_seed(0))
    whole = logits.softmax(-1)
    assert torch.allclose(found.renormalised(logits).exp(), whole[:, kept] / whole[:, kept].sum(-1, keepdim=True))
    wanted = whole[:, kept].clone()
    for row in set(range(VOCABULARY)) - set(kept.tolist()):
        (first, *_) = student(teacher.decode([row])).input_ids if row > 258 else (None,)
        assert first is not None
        wanted[:, first] += whole[:, row]
    assert torch.allclose(found.folded(logits).exp(), wanted, atol=1e-6)
    assert torch.allclose(found.folded(logits).exp().sum(-1), torch.ones(4), atol=1e-5)
    assert not torch.allclose(found.folded(logits), found.renormalised(logits), atol=1e-3)


def changed(change: str) -> PreTrainedTokenizerFast:
    whole = copy.deepcopy(described(tiny_tokenizer()))
    match change:
        case "pre-tokenizer":
            whole["pre_tokenizer"] = whole["pre_tokenizer"]["pretokenizers"][1]
        case "order":
            whole["model"]["merges"][0:2] = whole["model"]["merges"][1::-1]
        case "options":
            whole["model"]["ignore_merges"] = True
        case "control":
            whole["added_tokens"][2]["special"] = False
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(whole)))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("pre-tokenizer", "differ in their pre-tokenizer"),
        ("order", "where the teacher does not, or in another order"),
        ("options", "not two BPE vocabularies of one kind"),
        ("control", "is control for one of teacher and student"),
    ],
)
def test_a_tokenizer_that_only_looks_the_same_is_refused(change: str, line: str) -> None:
    with pytest.raises(VocabularyError, match=line):
        exact_map(changed(change), tiny_tokenizer())


def test_a_foreign_vocabulary_is_refused_and_so_is_the_larger_one_as_student() -> None:
    with pytest.raises(VocabularyError, match="differ in their normalizer"):
        exact_map(tiny_tokenizer(), pieces_tokenizer())
    student, _ = trimmed()
    with pytest.raises(VocabularyError, match="30 of the student's 320 tokens are not the teacher's"):
        exact_map(tiny_tokenizer(), student)


@pytest.mark.parametrize("text", TEXTS)
def test_chunks_are_the_same_bytes_for_both(text: str) -> None:
    student, teacher = tiny_tokenizer(), pieces_tokenizer()
    found = Aligner(student, teacher)(text)
    student_bytes, teacher_bytes = bytes_of(student), bytes_of(teacher)
    parts = []
    start = (0, 0)
    for end in zip(found.student_ends.tolist(), found.teacher_ends.tolist(), strict=True):
        ours = b"".join(student_bytes[row] for row in found.student_ids[start[0] : end[0]].tolist())
        theirs = b"".join(teacher_bytes[row] for row in found.teacher_ids[start[1] : end[1]].tolist())
        assert ours == theirs != b""
        parts.append(ours)
        start = end
    assert b"".join(parts) == text.encode()
    assert len(parts) > 1


def test_an_alignment_by_characters_of_token_names_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = tiny_tokenizer(), pieces_tokenizer()
    right = Aligner(student, teacher)("naïve 日本 cat sat")
    names = lambda tokenizer: {row: name.encode() for name, row in tokenizer.get_vocab().items()}  # noqa: E731
    monkeypatch.setattr(alignment, "bytes_of", names)
    monkeypatch.setattr(alignment, "spelled", lambda tokenizer, text, _: tokenizer.backend_tokenizer.encode(text).ids)
    wrong = Aligner(student, teacher)("naïve 日本 cat sat")
    assert not torch.equal(right.student_ends, wrong.student_ends)


def test_a_text_with_control_tokens_or_one_that_is_changed_is_refused() -> None:
    aligner = Aligner(tiny_tokenizer(), pieces_tokenizer())
    with pytest.raises(VocabularyError, match="which a tokenizer reads as control"):
        aligner("the cat<|im_end|>")
    with pytest.raises(VocabularyError, match="changes this text"):
        aligner("the▁cat")  # Its ▁ comes back as a space.
    with pytest.raises(VocabularyError, match="empty"):
        aligner("")


def test_a_tokenizer_that_is_not_understood_is_refused() -> None:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(VocabularyError, match="decodes by WordPiece, which is not understood"):
        bytes_of(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_a_chunk_is_as_likely_as_its_tokens_together() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = torch.tensor([3, 1, 4, 1, 5])
    told = logits.log_softmax(-1)
    found = chunk_log_likelihoods(logits, ids, torch.tensor([2, 4, 5]))
    assert torch.allclose(found, torch.stack([told[1, 4] + told[2, 1], told[3, 5]]))


def test_matching_is_kl_between_two_outcomes_and_nothing_where_they_agree() -> None:
    student = torch.tensor([0.25, 0.5], dtype=torch.float64).log().requires_grad_()
    teacher = torch.tensor([0.5, 0.5], dtype=torch.float64).log()
    loss = likelihood_matching(student, teacher)
    wanted = 0.5 * torch.tensor(0.5 / 0.25).log() + 0.5 * torch.tensor(0.5 / 0.75).log()
    assert torch.allclose(loss, torch.stack([wanted.double(), torch.zeros((), dtype=torch.float64)]), atol=1e-7)
    assert likelihood_matching(torch.tensor([0.0, -80.0]), torch.tensor([-80.0, 0.0])).isfinite().all()


def test_a_foreign_teachers_tokens_fold_onto_the_longest_piece_that_they_begin_with() -> None:
    student, teacher = tiny_tokenizer(), pieces_tokenizer()
    ours, theirs = bytes_of(student), bytes_of(teacher)
    folding = folding_by_bytes(student, teacher)
    for row, meaning in theirs.items():
        piece = int(folding.pieces[row])
        assert meaning.startswith(ours[piece])
        assert not [one for one in ours.values() if meaning.startswith(one) and len(one) > len(ours[piece])]
    told = folding.log_probabilities(torch.randn(2, len(teacher), generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(told.exp().sum(-1), torch.ones(2), atol=1e-5)


def test_a_student_learns_from_a_teacher_of_another_vocabulary() -> None:
    aligned = Aligner(tiny_tokenizer(), pieces_tokenizer())(SENTENCES[0])
    teacher = WhiteBox(model=tiny_model(seed=1), tokenizer=pieces_tokenizer(), facts=FACTS)
    wanted = teacher_scores(teacher, aligned)
    student = tiny_model(layers=1).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        logits = student(aligned.student_ids[None]).logits[0]
        told = chunk_log_likelihoods(logits, aligned.student_ids, aligned.student_ends)
        loss = likelihood_matching(told, wanted, temperature=4.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
