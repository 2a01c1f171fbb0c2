/** Starts the views that need the server; this script is loaded when one of them is opened. */

import { Compute } from "../views/compute/compute";
import { Fit } from "../views/fit/fit";
import { Network } from "../views/network/network";
import { registerViews } from "../views/lazy_view";
import { followAbout } from "./client";

followAbout();
registerViews({ compute: { component: Compute }, fit: { component: Fit }, network: { component: Network } });

// A file that is dropped beside a field for files does not replace the page.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => event.preventDefault());
