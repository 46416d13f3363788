"""A process that a user of Lava wrote; in a folder of its own, since Lava imports all files beside a process."""
