/** Starts the page. */

import { render } from "preact";
import { followAddress, followTheme } from "./state/store";
import { App, exists } from "./views/app";
import { followWidth } from "./views/layer/layer_parts";

followTheme();
followWidth();
followAddress(exists);
render(<App />, document.getElementById("page")!);
