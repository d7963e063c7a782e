"use strict";
/* The page of statistics draws nothing anew: it prints with its folds open. */

printable(() => {});
