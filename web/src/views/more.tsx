/** Starts the views that are loaded when one of them is opened: Cost, Field and Quiz. */

import { Cost } from "./cost/cost";
import { Field, fieldBoard } from "./field/field";
import { registerViews } from "./lazy_view";
import { Quiz } from "./quiz/quiz";

registerViews({ cost: { component: Cost }, field: { component: Field, board: fieldBoard }, quiz: { component: Quiz } });
