"""The tiny network that the tests here share."""

from support.builds import tiny as tiny
