"""What can go wrong, as exceptions.

All derive from `SeedError`, and from the built-in exception that Python has for the kind: an image that cannot be read
is a `ValueError` too, a missing file a `FileNotFoundError`. Every message says what to do next.
"""


class SeedError(Exception):
    """Base of everything that this package raises."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class InputTypeError(SeedError, TypeError):
    """An object of a kind that is not accepted."""


class ArgumentError(SeedError, ValueError):
    """An argument outside of what an operation accepts."""


class ReadError(SeedError, OSError):
    """A file or folder that cannot be read; `errno` and `filename` are set."""


class MissingFileError(ReadError, FileNotFoundError):
    """A file or folder that does not exist."""


class WriteError(SeedError, OSError):
    """A file or folder that cannot be written; `errno` and `filename` are set."""


class FolderInUseError(SeedError, FileExistsError):
    """A folder to write to that holds something else."""


class ImageError(SeedError, ValueError):
    """Bytes that are no image, or one that breaks off."""


class ImageTooLargeError(ImageError):
    """An image of more pixels than the limit."""


class CodesError(SeedError, ValueError):
    """Codes that this model cannot have made."""


class BoxesError(SeedError, ValueError):
    """Text in which something begins like a box or its phrase and is none."""


class BundleError(SeedError, ValueError):
    """A folder or repository that is not a model bundle."""


class ConfigError(SeedError, ValueError):
    """A configuration file with a missing, unknown or unsupported field."""


class WeightsError(SeedError, ValueError):
    """A weight file that is broken, or does not hold exactly the tensors of the model."""


class PickleRefusedError(WeightsError):
    """A checkpoint whose pickle could run code."""


class DeviceError(SeedError, RuntimeError):
    """A device that this build or this machine does not have."""


class MissingPartError(SeedError, RuntimeError):
    """A model without the part that the operation needs."""


class HubError(SeedError, OSError):
    """A model hub that does not give what was asked for."""


class NetworkError(HubError, ConnectionError):
    """A server that cannot be reached, or that breaks off again and again."""


class AccessError(HubError, PermissionError):
    """A repository that asks for a token, or whose licence must be accepted first."""


class NotOnHubError(HubError, FileNotFoundError):
    """A repository, revision or file that the hub does not have."""


class NotCachedError(HubError, FileNotFoundError):
    """A file that is not on disk, where nothing may be fetched."""


class DamagedError(HubError):
    """A fetched file that is not the one that was announced."""


class DatasetError(SeedError, ValueError):
    """An input of a dataset that cannot be used, or an output that is not what was written."""


class OtherRunError(SeedError, FileExistsError):
    """An output folder that was begun with other settings."""


class TooManyFailuresError(SeedError, RuntimeError):
    """More inputs failed than `max_errors` lets pass."""


class BusyError(SeedError, BlockingIOError):
    """A shard that another process writes at the moment."""


class DivergedError(SeedError, FloatingPointError):
    """Training that met a value that is not finite."""


class ForkError(SeedError, RuntimeError):
    """A process that was forked from one that computes; its threads are not there."""


class InternalError(SeedError, RuntimeError):
    """A bug in this package: a panic, with its text."""
