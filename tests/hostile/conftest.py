"""The tiny network whose files the tests here damage."""

from support.builds import tiny as tiny
