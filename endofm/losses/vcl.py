"""Static and dynamic concepts (VCL): what two clips of a video must agree on.

Qian et al.: Static and Dynamic Concepts for Self-supervised Video Representation Learning (ECCV
2022). No code of it is known; the forms below are ours where the paper leaves them open, and each
says so.

Shapes: B clips, K concepts, P length of an embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from endofm.losses.dino import sinkhorn_targets
from endofm.processes import join_over_processes

TARGET_TEMPERATURE, TEMPERATURE = 0.05, 0.1


def alignment(scores: Tensor, others: Tensor) -> Tensor:
    """How far two views [B, K] each, as cosines to the concepts, are from the same concepts, [].

    Each view's distribution over the concepts is the other's target, without gradient. Targets use
    all concepts alike over the clips of all processes (Sinkhorn-Knopp, as SwAV: ours), without
    which one concept for all clips would be the best answer.
    """
    targets = sinkhorn_targets(torch.stack([scores, others]).detach(), TARGET_TEMPERATURE)
    logits = torch.stack([others, scores]).float() / TEMPERATURE
    return -(targets * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def diversity(concepts: Tensor) -> Tensor:
    """Mean squared cosine between different concepts [K, P], []; 0 if all lie at right angles."""
    unit = F.normalize(concepts.float(), dim=-1)
    cosines = unit @ unit.T
    others = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return cosines[others].square().mean()


def fidelity(embedded: Tensor, scores: Tensor, concepts: Tensor) -> Tensor:
    """How much of embeddings [B, P] their concepts miss: 1 - cosine to what they add up to, [].

    The sum of `concepts` [K, P], weighted by the softmax of `scores` [B, K] (our form of the
    paper's fidelity).
    """
    shares = F.softmax(scores.float() / TEMPERATURE, dim=-1)
    rebuilt = shares @ F.normalize(concepts.float(), dim=-1)
    return 1 - F.cosine_similarity(embedded.float(), rebuilt, dim=-1).mean()


def local_contrast(
    locals_: Tensor, others: Tensor, scores: Tensor, other_scores: Tensor, num_kept: int
) -> Tensor:
    """Contrast of what each concept has gathered in two clips of a video, [].

    `locals_` and `others` [B, K, P] are the concepts' local features in both, `scores` and
    `other_scores` [B, K] how active the concepts are. Only the `num_kept` that are most active in
    both (by the product of their shares) take part; the same concept in the clip of the same video
    is to be found among those of all videos on all processes (InfoNCE).
    """
    shares = [F.softmax(one.detach().float() / TEMPERATURE, -1) for one in (scores, other_scores)]
    kept = (shares[0] * shares[1]).topk(num_kept, dim=-1).indices  # [B, M]
    own, other = (F.normalize(one.float(), dim=-1) for one in (locals_, others))
    everyone = join_over_processes(other)  # [all B, K, P]
    first = torch.distributed.get_rank() * len(own) if len(everyone) > len(own) else 0
    cosines = torch.einsum("bkp,ckp->bkc", own, everyone) / TEMPERATURE
    cosines = cosines.gather(1, kept[:, :, None].expand(-1, -1, len(everyone)))  # [B, M, all B]
    same = first + torch.arange(len(own), device=own.device)
    return F.cross_entropy(cosines.flatten(0, 1), same.repeat_interleave(num_kept))
