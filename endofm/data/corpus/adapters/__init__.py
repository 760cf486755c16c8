"""One file a source dataset: its original layout, read; `ADAPTERS` has them all by name."""

import difflib

from endofm.data.corpus.adapters.cholec80 import CHOLEC80
from endofm.data.corpus.adapters.cholect45 import CHOLECT45
from endofm.data.corpus.adapters.colonoscopic import COLONOSCOPIC
from endofm.data.corpus.adapters.cvc_clinicdb import CVC_CLINICDB
from endofm.data.corpus.adapters.cvc_clinicvideodb import CVC_CLINICVIDEODB
from endofm.data.corpus.adapters.ev9v import EV9V
from endofm.data.corpus.adapters.hyper_kvasir import HYPER_KVASIR_LABELLED, HYPER_KVASIR_VIDEOS
from endofm.data.corpus.adapters.kumc import KUMC
from endofm.data.corpus.adapters.kvasir_capsule import KVASIR_CAPSULE
from endofm.data.corpus.adapters.kvasir_seg import KVASIR_SEG
from endofm.data.corpus.adapters.ldpolypvideo import LDPOLYPVIDEO
from endofm.data.corpus.adapters.own_folder import OWN_FOLDER
from endofm.data.corpus.adapters.polypdiag import POLYPDIAG
from endofm.data.corpus.adapters.sun import SUN
from endofm.data.corpus.adapters.sun_seg import SUN_SEG
from endofm.data.corpus.source import Adapter
from endofm.errors import ConfigError

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        COLONOSCOPIC,
        SUN,
        SUN_SEG,
        LDPOLYPVIDEO,
        HYPER_KVASIR_VIDEOS,
        HYPER_KVASIR_LABELLED,
        KVASIR_CAPSULE,
        CHOLECT45,
        CHOLEC80,
        POLYPDIAG,
        CVC_CLINICDB,
        CVC_CLINICVIDEODB,
        KVASIR_SEG,
        KUMC,
        EV9V,
        OWN_FOLDER,
    )
}


def find_adapter(name: str) -> Adapter:
    """The adapter of that name; raises `ConfigError` with the nearest known ones."""
    if name not in ADAPTERS:
        near = difflib.get_close_matches(name, ADAPTERS, n=2, cutoff=0.4) or list(ADAPTERS)
        raise ConfigError(f"There is no dataset '{name}'; did you mean {' or '.join(near)}?")
    return ADAPTERS[name]
