import pytest
import torch

from endofm.errors import ConfigError
from endofm.heads.classification import AttentiveHead, LinearHead


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_head_reads_the_class_token_or_the_mean_of_the_others():
    given = tokens(2, 7, 12)
    head = LinearHead(12, 3)
    torch.testing.assert_close(head(given), head.linear(given[:, 0]))
    head = LinearHead(12, 3, pool="mean")
    torch.testing.assert_close(head(given), head.linear(given[:, 1:].mean(1)))


def test_features_pooled_once_are_classified_alike():
    given, head = tokens(2, 7, 12), LinearHead(12, 3, pool="mean", dropout=0.5).eval()
    assert torch.equal(head.classify(head.pool(given)), head(given))


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    given, head = tokens(2, 7, 12), LinearHead(12, 3, dropout=0.5)
    assert not torch.equal(head(given), head(given))
    assert torch.equal(head.eval()(given), head(given))


@pytest.mark.parametrize("num_tokens", [2, 7, 50])
def test_an_attentive_head_reads_any_number_of_tokens_in_any_order(num_tokens):
    given, head = tokens(2, num_tokens, 128), AttentiveHead(128, 5).eval()
    logits = head(given)
    assert logits.shape == (2, 5) and head.num_heads == 2 and head.num_classes == 5
    torch.testing.assert_close(head(given.flip(1)), logits)
    changed = given.clone()
    changed[0, -1] = tokens(128, seed=2)
    assert not torch.allclose(head(changed)[0], logits[0])
    torch.testing.assert_close(head(changed)[1], logits[1])


@pytest.mark.parametrize("make", [LinearHead, AttentiveHead])
def test_gradient_reaches_every_parameter(make):
    head = make(12, 4)
    head(tokens(3, 5, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.linear.parameters())
    # The classifier starts small but not at zero, so that what lies before it learns at once.
    still = [name for name, p in head.named_parameters() if not p.grad.abs().sum() > 0]
    assert not still


def test_an_attentive_head_finds_the_one_token_that_tells():
    torch.manual_seed(0)
    given, truth = tokens(32, 9, 16), torch.arange(32) % 2
    places = torch.randint(0, 9, (32,), generator=torch.Generator().manual_seed(2))
    given[torch.arange(32), places, 0] = 6.0
    given[torch.arange(32), places, 1] = 6.0 * (2 * truth - 1).float()
    head = AttentiveHead(16, 2, num_heads=2)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(given), truth).backward()
        optimizer.step()
    assert (head(given).argmax(1) == truth).float().mean() > 0.95


@pytest.mark.parametrize(
    "build",
    [lambda: LinearHead(12, 0), lambda: LinearHead(12, 2, dropout=1.0),
     lambda: LinearHead(12, 2, pool="max"), lambda: AttentiveHead(12, 2, num_heads=5)],
)  # fmt: skip
def test_heads_that_cannot_be_are_refused(build):
    with pytest.raises(ConfigError):
        build()
