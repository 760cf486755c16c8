"""The programs `pretrain` and `finetune`, under one name wherever they lie.

A wheel has them inside this folder; a checkout has them at its top, beside `endofm`. No name of
ours collides with a package of somebody else's (`finetune` is one).
"""

from pathlib import Path

HERE = Path(__file__).parent

if not (HERE / "pretrain").is_dir():
    __path__.append(str(HERE.parents[1]))
