"""The commands, one a file: ``configure(parser)`` declares the options, ``run(args)`` does the work."""
