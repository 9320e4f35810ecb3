"""Matrix products by oneDNN against PyTorch's own."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from medcap_core.runtime import cpu


@pytest.fixture
def overridden() -> Iterator[None]:
    """oneDNN's products, on whatever processor; afterwards as it was before."""
    if not (torch.backends.mkldnn.is_available() and cpu._onednn_agrees()):
        pytest.skip("this PyTorch has no oneDNN")
    was_overridden = bool(cpu._overrides)
    cpu.restore_products()
    cpu.override_products()
    yield
    cpu.restore_products()
    if was_overridden:
        cpu.override_products()


def make(rows: int, columns: int, layout: str) -> Tensor:
    """A random matrix that lies in memory by `layout`."""
    if layout == "transposed":
        return torch.randn(columns, rows).t()
    if layout == "sliced":
        return torch.randn(rows, columns + 5)[:, :columns]
    if layout == "expanded":
        return torch.randn(rows, 1).expand(rows, columns)
    return torch.randn(rows, columns)


LAYOUTS = ("plain", "transposed", "sliced", "expanded")


@pytest.mark.usefixtures("overridden")
@pytest.mark.parametrize("left_layout", LAYOUTS)
@pytest.mark.parametrize("right_layout", LAYOUTS)
@pytest.mark.parametrize("rows", [1, 3, 500])
def test_products_and_their_gradients_are_right_however_matrices_lie(
    rows: int, left_layout: str, right_layout: str
) -> None:
    torch.manual_seed(0)
    left, right = make(rows, 96, left_layout), make(96, 128, right_layout)
    bias, weighting = torch.randn(128), torch.randn(rows, 128)
    got = compute(left, right, bias, weighting)
    expected = compute(left.double(), right.double(), bias.double(), weighting.double())
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def compute(left: Tensor, right: Tensor, bias: Tensor, weighting: Tensor) -> list[Tensor]:
    """A product, with and without a bias, one by one and two at once, and the gradients of their weighted sum."""
    leaves = [tensor.detach().requires_grad_() for tensor in (left, right, bias)]
    left, right, bias = leaves
    pairs = torch.stack([left, -left]), torch.stack([right, 2 * right])
    single, batched = [left @ right, torch.addmm(bias, left, right)], [pairs[0] @ pairs[1], torch.baddbmm(bias, *pairs)]
    ((sum(single) + sum(batched).sum(0)) * weighting).sum().backward()
    return [
        *(product.detach() for product in single + batched),
        *(leaf.grad for leaf in leaves if leaf.grad is not None),
    ]


@pytest.mark.usefixtures("overridden")
def test_large_products_go_to_onednn_and_small_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    linear = cpu._linear

    def note(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.append((len(rows), *weight.shape))
        return linear(rows, weight, bias)

    monkeypatch.setattr(cpu, "_linear", note)
    layer = torch.nn.Linear(64, 256)
    layer(torch.randn(2, 16, 64))
    assert not seen
    (layer(torch.randn(2, 64, 64, requires_grad=True)) ** 2).sum().backward()
    assert sorted(seen) == [
        (128, 64, 256),
        (128, 256, 64),
        (256, 64, 128),
    ]  # the images' gradient, forward, the weight's


@pytest.mark.usefixtures("overridden")
def test_what_is_no_product_of_float32_matrices_is_left_to_pytorch() -> None:
    big = torch.randn(200, 200)
    torch.testing.assert_close(big.double() @ big.double(), (big @ big).double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        torch.addmm(big, big, big, beta=2, alpha=3), 2 * big + 3 * (big @ big), rtol=0, atol=1e-3
    )
    assert (big.bfloat16() @ big.bfloat16()).dtype is torch.bfloat16
    assert torch.mm(torch.ones(200, 200, dtype=torch.int64), torch.ones(200, 200, dtype=torch.int64))[0, 0] == 200
    assert torch.mm(torch.zeros(0, 4), torch.zeros(4, 3)).shape == (0, 3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torch.mm(big, torch.randn(100, 200))
    with pytest.raises(RuntimeError, match="same dtype"):
        torch.mm(big, big.double())


def test_products_are_as_before_when_the_override_is_undone(overridden: None) -> None:
    left, right = torch.randn(300, 300), torch.randn(300, 300)
    cpu.restore_products()
    before = left @ right
    cpu.override_products()
    cpu.restore_products()
    assert torch.equal(left @ right, before)


def test_a_pytorch_without_the_operator_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_overrides", [])
    monkeypatch.setattr(cpu, "_leaves_vectors_unused", lambda: True)

    def fail(*_: object) -> Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(cpu, "_linear", fail)
    cpu.use_cpu_fully()
    assert not cpu._overrides
