"""The command line: `hitl`. Each verb parses, calls one function of the package, and prints what it returned.

Exit codes of every command: 0 done · 1 the check found something · 2 usage, or a file that does not validate ·
3 appended, not yet effective · 4 Kafka not reached, nothing written · 5 refused (right, signature, ceiling) ·
6 an internal error · 130 interrupted. With `--json`: one object on stdout; everything else goes to stderr.
"""
