"""VCL around a backbone: two clips of a video agree on static and on dynamic concepts.

Qian et al.: Static and Dynamic Concepts for Self-supervised Video Representation Learning (ECCV
2022), the self-supervised baseline of the Endo-FM paper. No code of it is known. From the paper:
single frames and differences of frames lead static and dynamic concepts, whose distributions are
aligned; concepts are kept diverse and faithful; cross-attention gathers what each concept finds in
a clip, and the active ones are contrasted. Ours: the losses' forms (`endofm.losses.vcl`), their
weights, the transformer in the place of a 3-D CNN, and that the average of the network over the
steps is what is exported, as with DINO.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from endofm.heads.concepts import ConceptHead
from endofm.losses.vcl import alignment, diversity, fidelity, local_contrast
from endofm.models.timesformer import TimeSformer
from endofm.training.monitor import entropy

REGULARIZER_WEIGHT = 0.1
"""Of diversity and of fidelity, which only keep the concepts in order."""
KEPT_SHARE = 0.25
"""Share of the concepts that take part in the local contrast, the most active ones."""


class ConceptOutput(NamedTuple):
    """A forward pass: scalars to minimise and to watch, and what the monitor looks at."""

    total: Tensor
    static: Tensor
    dynamic: Tensor
    contrast: Tensor
    diversity: Tensor
    fidelity: Tensor
    features: Tensor  # [2 B, D], of the averaged backbone
    target_entropy: Tensor  # [], nats, of the static concepts' shares
    target_mean: Tensor  # [K]

    def scalars(self) -> dict[str, Tensor]:
        """What the log shows."""
        names = ("static", "dynamic", "contrast", "diversity", "fidelity", "target_entropy")
        return {"loss": self.total, **{name: getattr(self, name) for name in names}}


class ConceptBranch(nn.Module):
    """A backbone with its static and its dynamic concepts."""

    def __init__(self, backbone: TimeSformer, num_concepts: int) -> None:
        """As many concepts of each kind."""
        super().__init__()
        self.backbone: TimeSformer = backbone
        self.static: ConceptHead = ConceptHead(backbone.width, num_concepts)
        self.dynamic: ConceptHead = ConceptHead(backbone.width, num_concepts)


class ConceptTask(nn.Module):
    """Student, its average and loss; what `PretrainingTask` is for the Endo-FM objective."""

    def __init__(self, student: ConceptBranch) -> None:
        """The average starts as a copy of `student`."""
        super().__init__()
        self.student: ConceptBranch = student
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.num_kept = max(1, round(KEPT_SHARE * len(student.static.concepts)))
        self.train()

    def train(self, mode: bool = True) -> "ConceptTask":
        """Training mode of the student; the average is for export only."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, views: list[Tensor], num_global: int, teacher_temperature: float
    ) -> ConceptOutput:
        """Losses of a micro-batch: the first two of `views` [B, 3, T, H, W], T at least 2.

        `num_global` and `teacher_temperature` belong to the other objective, and are not used.
        """
        clips = views[:2]
        tokens = [self.student.backbone.tokens(clip) for clip in clips]
        middles = [clip[:, :, clip.shape[2] // 2][:, :, None] for clip in clips]
        changes = [clip[:, :, 1:] - clip[:, :, :-1] for clip in clips]
        led = self.student.backbone(*middles, *changes).unflatten(0, (4, -1))
        static, dynamic = self.student.static, self.student.dynamic
        device = clips[0].device.type
        aligned, faithful, contrasts, scores = [], [], [], []
        for head, leads in ((static, led[:2]), (dynamic, led[2:])):
            (embedded, own), (other_embedded, other) = (head(one[:, 0]) for one in tokens)
            led_own, led_other = (head(lead)[1] for lead in leads)
            local, other_local = (head.gather(one[:, 1:]) for one in tokens)
            with torch.autocast(device, enabled=False):  # sums over K in float32
                pairs = [(own, led_other), (other, led_own), (own, other)]
                aligned.append(torch.stack([alignment(*pair) for pair in pairs]).mean())
                faithful.append(fidelity(embedded, own, head.concepts))
                faithful.append(fidelity(other_embedded, other, head.concepts))
                contrasts.append(local_contrast(local, other_local, own, other, self.num_kept))
            scores.append(torch.cat([own, other]))
        spread = (diversity(static.concepts) + diversity(dynamic.concepts)) / 2
        missed, contrast = torch.stack(faithful).mean(), torch.stack(contrasts).mean()
        with torch.no_grad():
            features = self.teacher.backbone(*clips)
            shares = (scores[0].float() / 0.1).softmax(dim=-1)
        return ConceptOutput(
            total=sum(aligned, contrast) + REGULARIZER_WEIGHT * (spread + missed),
            static=aligned[0].detach(),
            dynamic=aligned[1].detach(),
            contrast=contrast.detach(),
            diversity=spread.detach(),
            fidelity=missed.detach(),
            features=features,
            target_entropy=entropy(shares).mean().detach(),
            target_mean=shares.mean(dim=0).detach(),
        )

    def compile_backbones(self) -> None:
        """Compile student and average in place; parameter names stay."""
        self.student.backbone.compile()
        self.teacher.backbone.compile()

    def drop_last_layer_gradient(self) -> None:
        """There is no last layer to wait for; concepts move from the first step on."""

    @torch.no_grad()
    def finish_step(self, momentum: float) -> None:
        """After the optimizer: the average moves to the student."""
        student = [parameter.detach() for parameter in self.student.parameters()]
        torch._foreach_lerp_(list(self.teacher.parameters()), student, 1 - momentum)

    def forget_step(self) -> None:
        """A forward pass leaves nothing behind."""
