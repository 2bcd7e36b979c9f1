"""The commands of ``python -m p3s``, one file each: ``add_options(parser)`` and ``run(options)``."""
