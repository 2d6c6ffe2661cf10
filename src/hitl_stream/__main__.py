"""`python -m hitl_stream` is `hitl`: what a child process is started with, whatever the PATH."""

from hitl_stream.cli.main import main

main()
