"""The pretraining program: `python -m pretrain --config pretrain/configs/endofm_paper.yaml`."""
