"""The tiny network that some tests here share."""

from support.builds import tiny as tiny
