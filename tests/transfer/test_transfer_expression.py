"""Policies combined in text mean what they mean in Python."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medtl_monai.builtin import freezing
from medtl_monai.errors import MedtlError, PolicyError
from medtl_monai.host import Host
from medtl_monai.specs import At, StageInfo
from medtl_monai.transfer.expression import choose_policy

HOST = Host.load(environ={"MEDTL_PLUGINS": ""})
STAGES = (
    *(StageInfo(name=n, role="backbone", pretrained=True, kinds=frozenset({"all", "norm", "bias"})) for n in "abcd"),
    StageInfo(name="head", role="head", pretrained=False),
)
probe, full, gradual, llrd = freezing.linear_probe(), freezing.full(), freezing.gradual(every=2), freezing.llrd()


def answers(policy):
    return [dict(policy(At(epoch=e, epochs=10), STAGES)) for e in range(10)]


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("llrd", llrd),
        (" medtl-monai:llrd:decay=0.75 ", llrd),
        ("gradual*llrd", freezing.gradual() * llrd),
        ("(gradual:every=2)*llrd", gradual * llrd),
        ("gradual:every=2 * llrd * full:lr=0.5", gradual * llrd * freezing.full(lr=0.5)),
        ("linear-probe.then(full,at=0.3)", probe.then(full, at=0.3)),
        ("linear-probe . then ( full:lr=0.1 , at = 0.3 )", probe.then(freezing.full(lr=0.1), at=0.3)),
        ("linear-probe.then(gradual:every=2,lr=1.0, at=0.5)", probe.then(gradual, at=0.5)),
        ("linear-probe.then(full, at=0.5) * llrd", probe.then(full, at=0.5) * llrd),
        ("linear-probe.then(full * llrd, at=0.5)", probe.then(full * llrd, at=0.5)),
        (
            "linear-probe.then(gradual:every=2.then(full, at=.5), at=2e-1)",
            probe.then(gradual.then(full, at=0.5), at=0.2),
        ),
        ("linear-probe.then(full, at=0.2).then(llrd, at=0.6)", probe.then(full, at=0.2).then(llrd, at=0.6)),
        ("(linear-probe.then(full, at=0.5)) * (llrd)", probe.then(full, at=0.5) * llrd),
        ("full * linear-probe.then(full, at=0.5)", full * probe.then(full, at=0.5)),
        ("surgical:stages=a+b * llrd", freezing.surgical(stages=("a", "b")) * llrd),
    ],
)
def test_text_means_what_python_means(text, policy):
    chosen = choose_policy(HOST, text)
    assert answers(chosen.policy) == answers(policy)
    assert any(answers(policy)[0] != row for row in answers(policy)) or "then" not in text


def test_names_and_provenance():
    chosen = choose_policy(HOST, "gradual:every=2   *  llrd")
    assert chosen.name == "gradual:every=2 * llrd"
    assert [choice.qualified for choice in chosen.choices] == ["medtl-monai:gradual", "medtl-monai:llrd"]
    assert chosen.choices[0].parameters["every"] == 2
    assert choose_policy(HOST, "gradual:every=2").name == "gradual"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "name is missing"),
        ("gradual *", "name is missing"),
        ("* llrd", "name is missing"),
        ("(gradual", r"a '\)' is missing"),
        ("gradual)", r"'\)' is left over"),
        ("gradual llrd", "no policy is called 'gradual llrd'"),
        ("(gradual) llrd", "'llrd' is left over"),
        ("linear-probe.then(full)", "needs the share"),
        ("linear-probe.then(full, 0.3)", "needs the share"),
        ("linear-probe.then(full, at=)", "needs the share"),
        ("linear-probe.then(full, at=x)", "at=x is not a number"),
        ("linear-probe.then(full, at=0.3", r"a '\)' is missing"),
        ("linear-probe.then(full, at=1.5)", "not between 0 and 1"),
        ("linear-probe.then(full, at=nan)", "not between 0 and 1"),
        ("linear-probe.then(fulll, at=0.3)", "no policy is called 'fulll'"),
        ("norm-only * bitfit", None),
        ("full:lr=0", "lr=0.0"),
        ("gradual:every=2*llrd", r"every='2\*llrd' is not a whole number"),
        ("full:rate=1", "unknown option 'rate'"),
    ],
)
def test_what_is_wrong_is_said(text, what):
    if what is None:  # two that cannot be combined show when they are asked
        with pytest.raises(PolicyError, match="cannot be combined"):
            answers(choose_policy(HOST, text).policy)
        return
    with pytest.raises(MedtlError, match=what) as caught:
        choose_policy(HOST, text)
    assert caught.value.mend


def test_a_product_without_spaces_behind_options_is_explained():
    with pytest.raises(MedtlError) as caught:
        choose_policy(HOST, "gradual:every=2*llrd")
    assert "put a space before and after '*'" in caught.value.mend


def test_a_wildcard_in_an_option_is_no_product():
    with pytest.raises(PolicyError, match=r"no stage 'lay\*'"):
        answers(choose_policy(HOST, "surgical:stages=lay* * llrd").policy)


def test_near_misses_are_suggested():
    with pytest.raises(MedtlError) as caught:
        choose_policy(HOST, "gradual * lllrd")
    assert "Did you mean 'llrd'" in caught.value.mend


@given(st.text(alphabet="*().,=:+ atfulhen03x", max_size=30))
def test_any_text_is_a_policy_or_an_error_of_ours(text):
    with contextlib.suppress(MedtlError):
        assert answers(choose_policy(HOST, text).policy)
