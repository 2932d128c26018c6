"""Honest users: one habit a line. A new habit is a function in a file here and a line in ``HABITS``."""

from __future__ import annotations

from detector.lab.honest import distorted, gradual, repeats, sampling
from detector.lab.honest.habit import Habit

HABITS: dict[str, Habit] = {
    habit.name: habit
    for habit in (
        Habit("steady", sampling.steady, "new images at an even pace"),
        Habit("bursts", sampling.bursts, "silence, then dozens at once"),
        Habit("bulk", sampling.bulk, "fifty rows in one request"),
        Habit("light", sampling.light, "a query now and then"),
        Habit("retries", repeats.retries, "sends every third query again"),
        Habit("health check", repeats.health_check, "one vector for ever"),
        Habit("scanner", distorted.scanner, "crooked sheets with noise"),
        Habit("shift", distorted.shift, "images off centre"),
        Habit("rotation", distorted.rotation, "images turned"),
        Habit("blur", distorted.blur, "images out of focus"),
        Habit("contrast", distorted.contrast, "faded images"),
        Habit("new device", distorted.new_device, "sharp images, then blurred and faded ones"),
        Habit("several views", distorted.several_views, "each image in four views"),
        Habit("one class", distorted.one_class, "one digit only"),
        Habit("drawing", gradual.drawing, "asks stroke by stroke"),
        Habit("short what-if", gradual.short_what_if, "varies one pixel of five images"),
        Habit(
            "what-if",
            gradual.what_if,
            "varies one pixel of every image, all day",
            false_alarm="one-pixel changes are many small equal steps; flagged after some 130 queries",
        ),
        Habit(
            "video",
            gradual.video,
            "noise-free video",
            false_alarm="equal steps between frames, and a jump at each cut; flagged after some 120 frames",
        ),
        Habit(
            "camera",
            gradual.camera,
            "a fixed camera before changing sheets",
            false_alarm="many frames a sheet at the distance of the sensor's noise; flagged after some 700 frames",
        ),
        Habit(
            "rescans",
            distorted.rescans,
            "the same sixty sheets over and over, with noise",
            false_alarm="each new scan is a hair away from the last one of its sheet; flagged after some 120 queries",
        ),
    )
}
