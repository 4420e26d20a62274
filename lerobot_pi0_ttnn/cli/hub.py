"""The options with which every subcommand names a checkpoint."""

import argparse

from ..checkpoint.files import CheckpointSource


def add_checkpoint_options(parser: argparse.ArgumentParser, name: str, *, optional: bool = False) -> None:
    """Adds the checkpoint's argument, called `name` and left out if `optional`, and the Hub's options."""
    parser.add_argument(name, nargs="?" if optional else None, help="a folder, or owner/name on the Hub")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--subfolder", help="where in the folder or repository the checkpoint lies")
    parser.add_argument("--base-model", help="of a LoRA adapter: a folder or Hub id, if not what its config names")
    parser.add_argument("--cache-dir", help="the Hub's cache folder")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the network")


def checkpoint_source(options: argparse.Namespace, name: str) -> CheckpointSource:
    """Returns the checkpoint that these options name."""
    return CheckpointSource(
        getattr(options, name),
        revision=options.revision,
        cache_dir=options.cache_dir,
        local_files_only=options.local_files_only,
        subfolder=options.subfolder,
    )
