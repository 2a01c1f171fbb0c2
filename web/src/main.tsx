/** Starts the page. */

import { render } from "preact";
import { followToken } from "./server/token";
import { followAddress, followTheme } from "./state/store";
import { App, exists } from "./views/app";
import { followWidth } from "./views/layer/layer_parts";

followTheme();
followToken(); // before the state is read from the address
followWidth();
followAddress(exists);
render(<App />, document.getElementById("page")!);
