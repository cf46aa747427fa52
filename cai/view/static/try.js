// The page of a trial that is going on is loaded again until the trial has ended.
"use strict";
setTimeout(() => location.reload(), 1500);
