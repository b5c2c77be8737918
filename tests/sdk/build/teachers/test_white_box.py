"""Every family is loaded, looked into and distilled from; what it shows is what transformers computes."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sdk.build.losses.divergence import forward_kl
from sdk.build.teachers.hf_folder import FAMILIES
from sdk.build.teachers.protocol import Depth, OpenTeacher, Sampling, Teacher, opened
from sdk.build.teachers.white_box import WhiteBox
from sdk.errors import TeacherError, VocabularyError
from tests.families import save_family
from tests.tiny import tiny_gguf, tiny_model, tiny_tokenizer

IDS = torch.arange(24).view(2, 12) + 40  # (batch, seq)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[WhiteBox, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    save_family(folder, request.param)
    return WhiteBox.open(folder), folder


@pytest.fixture(scope="module")
def llama() -> WhiteBox:
    from sdk.build.teachers.protocol import TeacherFacts

    facts = TeacherFacts(name="tiny", depth=Depth.WEIGHTS, licence="mit", origin="tiny")
    return WhiteBox(model=tiny_model(), tokenizer=tiny_tokenizer(), facts=facts)


def test_it_shows_what_transformers_computes(family: tuple[WhiteBox, Path]) -> None:
    teacher, folder = family
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        told = theirs(IDS, output_hidden_states=True, output_attentions=True, use_cache=False)
    view = teacher.look(IDS, hidden_states=range(teacher.layers + 1), attention=range(teacher.layers))
    assert torch.allclose(view.logits, told.logits, atol=1e-5)
    assert view.logits.std() > 0.05
    for layer in range(teacher.layers):
        assert torch.allclose(view.hidden_states[layer], told.hidden_states[layer], atol=1e-5)
        assert torch.allclose(view.attention[layer], told.attentions[layer], atol=1e-5)
        assert torch.allclose(view.attention[layer].sum(-1), torch.ones(1), atol=1e-5)
    with torch.no_grad():  # hidden_states[-1] of transformers is behind the norm, ours is before it.
        assert torch.allclose(teacher.model.model.norm(view.hidden_states[3]), told.hidden_states[-1], atol=1e-5)


def test_the_faster_way_gives_the_same_logits_and_is_left_as_it_was(family: tuple[WhiteBox, Path]) -> None:
    teacher, _ = family
    before = teacher.model.config._attn_implementation
    slow = teacher.look(IDS, attention=(0,)).logits
    assert teacher.model.config._attn_implementation == before == "sdpa"
    assert torch.allclose(teacher.logits(IDS), slow, atol=1e-5)
    assert not [module for module in teacher.model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_a_student_learns_from_it(family: tuple[WhiteBox, Path]) -> None:
    teacher, _ = family
    wanted = teacher.logits(IDS)
    student = tiny_model(layers=1).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(16):
        loss = forward_kl(student(IDS).logits, wanted, 1.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_it_writes_the_likeliest_tokens_whatever_stands_beside_in_the_batch(family: tuple[WhiteBox, Path]) -> None:
    teacher, _ = family
    alone = teacher.text(["the cat"], Sampling(max_new_tokens=6))
    together = teacher.text(["the cat", "a person writes a note and another"], Sampling(max_new_tokens=6))
    assert alone[0] == together[0]
    ids = teacher.tokenizer.apply_chat_template(
        [{"role": "user", "content": "the cat"}], add_generation_prompt=True, return_dict=False
    )
    assert isinstance(ids, list)
    written: list[int] = []
    for _ in range(6):
        likeliest = int(teacher.logits(torch.tensor([[*ids, *written]]))[0, -1].argmax())
        if likeliest == 2:
            break
        written.append(likeliest)
    assert alone[0].text == teacher.tokenizer.decode(written, skip_special_tokens=True)


def test_top_k_and_rest_are_the_whole_distribution(llama: WhiteBox) -> None:
    told = llama.log_probabilities(IDS, 5)
    whole = llama.logits(IDS).softmax(-1)  # (batch, seq, vocabulary)
    assert torch.allclose(told.log_probs.exp(), whole.gather(-1, told.ids), atol=1e-6)
    assert torch.allclose(told.log_probs.exp().sum(-1) + told.rest, torch.ones(2, 12), atol=1e-6)
    assert (told.ids[..., 0] == whole.argmax(-1)).all()
    assert llama.log_probabilities(IDS, 320).rest.max() < 1e-5
    with pytest.raises(TeacherError, match="top_k must lie in 1 to 320"):
        llama.log_probabilities(IDS, 321)


def test_answers_end_where_the_turn_ends_or_say_that_they_were_cut(llama: WhiteBox) -> None:
    assert llama._read([65, 66, 2, 67], [2]).finish == "stop"
    assert llama._read([65, 66, 2, 67], [2]).text == llama._read([65, 66], [2]).text
    assert llama._read([65, 66], [2]).finish == "length"


def test_a_prompt_without_room_for_an_answer_has_a_reason_and_the_others_go_on(llama: WhiteBox) -> None:
    long, short = llama.text(["x" * 300, "the cat"], Sampling(max_new_tokens=4))
    assert (long.finish, long.text) == ("refused", "")
    assert "leave no room for an answer in 256" in long.reason
    assert short.finish != "refused"


def test_drawing_follows_the_seed_and_leaves_the_callers_random_state_alone(llama: WhiteBox) -> None:
    before = torch.get_rng_state()
    one, again, other = (
        llama.text(["the cat"], Sampling(max_new_tokens=8, temperature=1.5, seed=seed))[0].text for seed in (1, 1, 2)
    )
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("ids", "layers", "kind", "line"),
    [
        (torch.tensor([[320]]), (), VocabularyError, "token 320 is not in the teacher's vocabulary of 320"),
        (torch.tensor([[-1]]), (), VocabularyError, "map the student's ids first"),
        (torch.zeros(1, 257, dtype=torch.long), (), TeacherError, "257 tokens pass the teacher's context of 256"),
        (torch.zeros(3, dtype=torch.long), (), TeacherError, r"must be \(batch, seq\)"),
        (torch.zeros(1, 0, dtype=torch.long), (), TeacherError, r"must be \(batch, seq\)"),
        (torch.zeros(1, 2, dtype=torch.long), (9,), TeacherError, "inputs of layers 0 to 4, not of 9"),
    ],
)
def test_what_it_has_not_is_refused(
    llama: WhiteBox, ids: torch.Tensor, layers: tuple[int, ...], kind: type[Exception], line: str
) -> None:
    with pytest.raises(kind, match=line):
        llama.look(ids, hidden_states=layers)


def test_attention_of_a_layer_that_is_not_there_is_refused(llama: WhiteBox) -> None:
    with pytest.raises(TeacherError, match="attention in layers 0 to 3, not in 4"):
        llama.attention(IDS, (4,))


def test_it_has_the_full_depth(llama: WhiteBox) -> None:
    assert isinstance(llama, Teacher)
    assert isinstance(llama, OpenTeacher)
    assert opened(llama) is llama
    assert llama.hidden_states(IDS, (1,))[1].shape == (2, 12, 32)
    assert llama.estimate(["a", "b"], Sampling(max_new_tokens=5)).output_tokens == 10
    assert llama.spent == 0


def test_a_gguf_file_is_opened_by_its_own_reader(tmp_path: Path) -> None:
    written = tiny_gguf(tmp_path / "tiny.gguf")
    teacher = WhiteBox.open(tmp_path / "tiny.gguf")
    with torch.no_grad():
        assert torch.equal(teacher.logits(IDS), written(IDS).logits)
    assert teacher.facts.licence == "unknown"
    assert WhiteBox.open(tmp_path, licence="mit").facts.licence == "mit"
    assert teacher.facts.origin == "tiny.gguf"


def test_a_folder_without_a_model_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"neither config.json nor a GGUF file"):
        WhiteBox.open(tmp_path)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03")
    with pytest.raises(TeacherError, match="not a readable GGUF file"):
        WhiteBox.open(tmp_path)


def test_a_conversation_needs_a_chat_template(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    from sdk.build.teachers.protocol import TeacherFacts

    facts = TeacherFacts(name="base", depth=Depth.WEIGHTS, licence="mit", origin="base")
    teacher = WhiteBox(model=tiny_model(), tokenizer=tokenizer, facts=facts)
    assert len(teacher.text(["the cat"], Sampling(max_new_tokens=3))) == 1
    with pytest.raises(TeacherError, match="base has no chat template"):
        teacher.text([[{"role": "user", "content": "the cat"}]])
