import pytest
import torch

from endofm.errors import ConfigError
from endofm.heads.concepts import ConceptHead


def test_scores_are_cosines_and_concepts_gather_what_looks_like_them():
    torch.manual_seed(0)
    head = ConceptHead(width=6, num_concepts=3, length=4)
    embedded, scores = head(torch.randn(5, 6))
    assert embedded.shape == (5, 4) and scores.shape == (5, 3)
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(5))
    assert scores.abs().max() <= 1 + 1e-6
    tokens = torch.randn(2, 7, 6)
    found = head.gather(tokens)
    assert found.shape == (2, 3, 4)
    with torch.no_grad():  # one token lies exactly on the first concept, all others against it
        head.of_tokens.weight.copy_(torch.eye(4, 6))
        head.of_tokens.bias.zero_()
        direction = torch.nn.functional.normalize(head.concepts[0], dim=-1)
        tokens = torch.zeros(1, 7, 6)
        tokens[..., :4] = -direction
        tokens[0, 3, :4] = direction
    torch.testing.assert_close(head.gather(tokens)[0, 0], direction, atol=1e-3, rtol=0)


def test_one_concept_is_refused():
    with pytest.raises(ConfigError, match="1 concepts tell nothing apart"):
        ConceptHead(width=6, num_concepts=1)
