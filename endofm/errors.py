"""Errors that speak to the user: one sentence with the place, the value and the way out."""


class EndofmError(Exception):
    """A fault in the input or the surroundings, told in one sentence; programs print it without a
    traceback.
    """


class ConfigError(EndofmError):
    """A configuration that can't be run."""


class ManifestError(EndofmError):
    """A manifest, or a row of it, that can't be used."""


class VideoError(EndofmError):
    """A clip that can't be decoded, or whose frames can't be trusted."""


class WeightsError(EndofmError):
    """Weights that don't fit, or a file that isn't weights."""


class RunError(EndofmError):
    """A run that can't start or go on."""


class OutputError(RunError):
    """A file or folder that can't be written."""


class CorpusError(EndofmError):
    """A source dataset or a prepared corpus that can't be used as it is."""
