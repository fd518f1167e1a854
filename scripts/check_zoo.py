"""Placeholder written below."""


def check(*_):
    return True
