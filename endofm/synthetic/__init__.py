"""A small endoscopy world: the corpus everyone has.

Wet, vessel-lined tubes are ray-traced along a moving camera's way, with and without polyps.
`render_clip` makes one clip in memory, `write_corpus` a folder of them.
"""

from endofm.synthetic.clips import SyntheticClip, render_clip
from endofm.synthetic.corpus import CorpusSpec, write_corpus
from endofm.synthetic.world import SCENES

__all__ = ["SCENES", "CorpusSpec", "SyntheticClip", "render_clip", "write_corpus"]
