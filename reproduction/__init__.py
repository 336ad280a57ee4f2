"""`fend reproduce`: the paper's evaluation (section 4), its rows and ours, in one command.

    plan -> cell x N (train, surrogate, attack) -> one small JSON each -> tables and pictures

A cell is one defence on one data set with one seed. What is finished is a file, so that a run that
was stopped, at whatever moment, goes on from there.
"""
